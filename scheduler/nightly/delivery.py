"""The delivery of summaries by SMTP and to a webhook; either may be off."""

from __future__ import annotations

import json
import logging
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable
from email.message import EmailMessage
from typing import Annotated, Any, Literal

from pydantic import Field, HttpUrl, SecretStr

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


def send(
    settings: SendSettings,
    subject: str,
    text: str,
    html: str,
    figures: dict[str, Any],
    *,
    already: Iterable[str] = (),
) -> dict[str, bool]:
    """Send a summary by each channel that is set up; return by channel whether it was sent.

    The channels in `already` have sent it before and are left out. A server's answer is not logged: it may
    repeat what it was sent.
    """
    sent = dict.fromkeys(already, True)
    if settings.smtp_host and settings.mail_to and "mail" not in sent:
        sent["mail"] = _attempt("mail", lambda: _mail(settings, subject, text, html))
    if settings.webhook_url.get_secret_value() and "webhook" not in sent:
        sent["webhook"] = _attempt("webhook", lambda: _post(settings.webhook_url.get_secret_value(), figures))
    return sent


def _attempt(what: str, act: Any) -> bool:
    try:
        act()
    except (OSError, smtplib.SMTPException, ValueError) as error:
        log.warning("the summary was not sent by %s: %s", what, type(error).__name__)
        return False
    return True


def _mail(settings: SendSettings, subject: str, text: str, html: str) -> None:
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
        server.send_message(message)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an error: its request would lack the figures, and may go to another host."""

    def redirect_request(self, *_: Any) -> None:
        """Follow no redirect."""


_STRAIGHT = urllib.request.build_opener(_NoRedirects)


def _post(url: str, figures: dict[str, Any]) -> None:
    HttpUrl(url)  # refuses other schemes, such as file:
    request = urllib.request.Request(  # noqa: S310  (checked above)
        url, data=json.dumps(figures).encode(), headers={"Content-Type": "application/json"}
    )
    with _STRAIGHT.open(request, timeout=_TIMEOUT_SECONDS):
        pass
