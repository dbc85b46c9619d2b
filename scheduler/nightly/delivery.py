"""The delivery of summaries by mail and to a webhook; either may be off."""

from __future__ import annotations

import json
import logging
import smtplib
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.message import EmailMessage
from html import escape
from typing import Annotated, Any, Literal

from pydantic import Field, HttpUrl, SecretStr

from db.errors import PneumoscreenError
from db.settings import RoomSettings

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 30.0


class SendSettings(RoomSettings):
    """Delivery of morning summaries."""

    #: Mail server. Empty: no mail.
    smtp_host: str = ""
    #: Port of the mail server.
    smtp_port: Annotated[int, Field(gt=0, lt=65536)] = 587
    #: `starttls`; `tls`, which is TLS from the first byte; or `none`, on a network that you trust.
    smtp_security: Literal["starttls", "tls", "none"] = "starttls"
    #: User name on the mail server. Empty: no login.
    smtp_user: str = ""
    #: Password of that user.
    smtp_password: SecretStr = SecretStr("")
    #: Sender of the mail.
    mail_from: str = "pneumoscreen@localhost"
    #: Recipients, as in `["radiology@example.org"]`. Empty: no mail.
    mail_to: tuple[str, ...] = ()
    #: URL to which the figures are sent as JSON by POST; it may contain a token. Empty: no webhook.
    webhook_url: SecretStr = SecretStr("")


class MailNotSetUp(PneumoscreenError):
    """No mail is set up. Set `smtp_host` and `mail_to` in `pneumoscreen.toml`."""

    code = "mail-not-set-up"


class MailNotSent(PneumoscreenError):
    """The mail was not sent. Correct what is named, and try again with `pneumoscreen nightly test-mail`."""

    code = "mail-not-sent"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to send a summary by one channel."""

    sent: bool
    #: What went wrong, and the setting to check. If it was sent, some recipients may have been refused.
    problem: str | None = None


def send(
    settings: SendSettings,
    subject: str,
    text: str,
    html: str,
    figures: dict[str, Any],
    *,
    already: Iterable[str] = (),
) -> dict[str, Attempt]:
    """Send a summary by each channel that is set up; return the attempts by channel.

    The channels in `already` have sent it before and are left out.
    """
    attempts: dict[str, Attempt] = {}
    if settings.smtp_host and settings.mail_to and "mail" not in already:
        attempts["mail"] = _attempt("mail", lambda: _mail(settings, subject, text, html))
    url = settings.webhook_url.get_secret_value()
    if url and "webhook" not in already:
        attempts["webhook"] = _attempt("webhook", lambda: _post(url, figures))
    return attempts


def send_test(settings: SendSettings, host: str) -> Attempt:
    """Send a mail that shows that mails arrive. Raises MailNotSetUp, MailNotSent."""
    if not settings.smtp_host or not settings.mail_to:
        raise MailNotSetUp
    text = f"This is a test. The morning summaries of pneumoscreen on {host} come to this address."
    html = f"<!doctype html><html><body><p>{escape(text)}</p></body></html>"
    attempt = _attempt("mail", lambda: _mail(settings, f"pneumoscreen on {host}: test", text + "\n", html))
    if not attempt.sent:
        raise MailNotSent(attempt.problem or "")
    return attempt


def _attempt(what: str, act: Callable[[], str | None]) -> Attempt:
    """Send by one channel. A server's answer is not kept: it may repeat what it was sent."""
    try:
        problem = act()
    except (OSError, smtplib.SMTPException, ValueError) as error:
        problem = _reason(error)
        log.warning("the summary was not sent by %s: %s", what, problem)
        return Attempt(sent=False, problem=problem)
    return Attempt(sent=True, problem=problem)


#: What an error means, the first one that fits, and the setting to check.
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (smtplib.SMTPAuthenticationError, "the login is refused: check `smtp_user` and `smtp_password`"),
    (smtplib.SMTPRecipientsRefused, "every recipient is refused: check `mail_to`"),
    (smtplib.SMTPSenderRefused, "the sender is refused: check `mail_from`"),
    (smtplib.SMTPNotSupportedError, "TLS or a login is not offered: check `smtp_security` and `smtp_user`"),
    (smtplib.SMTPServerDisconnected, "the server closed the connection: check `smtp_security`"),
    (ssl.SSLCertVerificationError, "the server's certificate is not trusted or is for another name"),
    (ssl.SSLError, "TLS failed: check `smtp_security` and the port"),
    (socket.gaierror, "there is no host of that name: check its spelling"),
    (ConnectionRefusedError, "the connection is refused: check host and port"),
    (TimeoutError, f"no answer within {_TIMEOUT_SECONDS:.0f} s: check host, port and firewall"),
)


def _reason(error: Exception) -> str:
    """Return why a summary was not sent, in words of ours."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        return _reason(error.reason)
    for kind, meaning in _REASONS:
        if isinstance(error, kind):
            return meaning
    if isinstance(error, smtplib.SMTPResponseException):
        return f"the server answers {error.smtp_code}"
    return type(error).__name__


def _mail(settings: SendSettings, subject: str, text: str, html: str) -> str | None:
    """Send a mail; return that some of its recipients were refused, if so."""
    message = EmailMessage()
    message["Subject"], message["From"] = subject, settings.mail_from
    message["To"] = ", ".join(settings.mail_to)
    message.set_content(text)
    message.add_alternative(html, subtype="html")
    context = ssl.create_default_context()
    if settings.smtp_security == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(
            settings.smtp_host, settings.smtp_port, timeout=_TIMEOUT_SECONDS, context=context
        )
    else:
        server = smtplib.SMTP(settings.smtp_host, settings.smtp_port, timeout=_TIMEOUT_SECONDS)
    with server:
        if settings.smtp_security == "starttls":
            server.starttls(context=context)
        if settings.smtp_user:
            server.login(settings.smtp_user, settings.smtp_password.get_secret_value())
        refused = server.send_message(message)
    return f"refused for {len(refused)} of {len(settings.mail_to)} recipients" if refused else None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an error: its request would lack the figures, and may go to another host."""

    def redirect_request(self, *_: Any) -> None:
        """Follow no redirect."""


_STRAIGHT = urllib.request.build_opener(_NoRedirects)


def _post(url: str, figures: dict[str, Any]) -> None:
    """Send figures to a webhook."""
    HttpUrl(url)  # refuses other schemes, such as file:
    request = urllib.request.Request(  # noqa: S310  (checked above)
        url, data=json.dumps(figures).encode(), headers={"Content-Type": "application/json"}
    )
    with _STRAIGHT.open(request, timeout=_TIMEOUT_SECONDS):
        pass
