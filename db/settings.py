"""The sources of all settings, and the settings of the job table."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from db.errors import PneumoscreenError

ENV_PREFIX = "PNEUMOSCREEN_"


class SettingsInvalid(PneumoscreenError):
    """A setting has a value that cannot be used. Correct it in the environment or in `pneumoscreen.toml`."""

    code = "settings-invalid"


class HomeUnusable(PneumoscreenError):
    """The data directory's path has control characters or is not UTF-8. Set PNEUMOSCREEN_HOME to another."""

    code = "home-unusable"


def home() -> Path:
    """Return the data directory: `PNEUMOSCREEN_HOME`, by default the platform's user data folder.

    Raises HomeUnusable for a path that cannot be written into logs, answers and configuration files.
    """
    chosen = os.environ.get(ENV_PREFIX + "HOME")
    if chosen:
        folder = Path(chosen).expanduser().absolute()
        if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in str(folder)):
            raise HomeUnusable
        return folder
    from platformdirs import user_data_path

    return user_data_path("pneumoscreen", appauthor=False)


def secrets_folder() -> Path:
    """Return the folder of secret settings, one file each, such as `pneumoscreen_broker_url`.

    `up` writes those of the embedded stack there. Containers mount a folder and set `PNEUMOSCREEN_SECRETS`.
    """
    return Path(os.environ.get(ENV_PREFIX + "SECRETS") or home() / "secrets")


def config_file() -> Path:
    """Return `PNEUMOSCREEN_CONFIG`, by default `pneumoscreen.toml` in the data directory."""
    return Path(os.environ.get(ENV_PREFIX + "CONFIG") or home() / "pneumoscreen.toml")


class RoomSettings(BaseSettings):
    """Settings of one room, from the environment, else from secret files, else from `pneumoscreen.toml`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, extra="ignore", frozen=True, protected_namespaces=()
    )
    #: Every room's class, for the documentation and for `doctor`.
    rooms: ClassVar[list[type[RoomSettings]]] = []

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Add the class to `rooms`."""
        super().__pydantic_init_subclass__(**kwargs)
        RoomSettings.rooms.append(cls)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Find the files when settings are read, not when this module is imported."""
        from pydantic_settings import SecretsSettingsSource

        sources: list[PydanticBaseSettingsSource] = [init_settings, env_settings]
        if secrets_folder().is_dir():
            sources.append(SecretsSettingsSource(settings_cls, secrets_dir=secrets_folder()))
        sources.append(TomlConfigSettingsSource(settings_cls, toml_file=config_file()))
        return tuple(sources)

    @classmethod
    def read(cls) -> Self:
        """Read the settings, or raise SettingsInvalid with those that cannot be used, and why.

        No value is repeated: it may be a secret.
        """
        try:
            return cls()
        except ValidationError as error:
            wrong = sorted({_complaint(part["loc"], part["msg"]) for part in error.errors()})
            raise SettingsInvalid("; ".join(wrong)) from None
        except SettingsError as error:  # a list or a table in the environment or a secret file
            name = next(iter(re.findall('field "(.+?)"', str(error))), "").upper()
            raise SettingsInvalid(f"{ENV_PREFIX}{name}: outside of the file it has to be JSON") from None
        except (ValueError, OSError) as error:
            raise SettingsInvalid(f"{config_file()}{_place(error)}") from None


def _complaint(where: tuple[int | str, ...], why: str) -> str:
    """Return the name of a setting that cannot be used, the place in it, and the reason."""
    name = ENV_PREFIX + str(where[0]).upper() if where else "pneumoscreen.toml"
    inside = f" ({' '.join(map(str, where[1:]))})" if where[1:] else ""
    return f"{name}{inside}: {why.removeprefix('Value error, ')}"


def _place(error: ValueError | OSError) -> str:
    """Return where a file of settings cannot be read, without its text."""
    if isinstance(error, OSError):
        return f": {os.strerror(error.errno or 0)}"
    line = re.search(r"at (line \d+), column \d+|at (end of document)", str(error))
    return f", {line[1] or line[2]}: this is not TOML" if line else ": this is not TOML in UTF-8"


class DatabaseSettings(RoomSettings):
    """The job table."""

    #: SQLAlchemy URL of the job table. Empty: SQLite in the data directory, for one machine.
    database_url: SecretStr = SecretStr("")
    #: Seconds to wait for another writer before giving up. A write takes milliseconds; a minute
    #: is enough for a checkpoint on a slow disk.
    database_busy_seconds: Annotated[float, Field(gt=0)] = 60.0
    #: Folder with one artefact per registered model. Empty: `models` in the data directory.
    models_folder: str = ""

    @property
    def url(self) -> str:
        """The URL of the job table; empty if it is `file`."""
        return self.database_url.get_secret_value()

    @property
    def file(self) -> Path:
        """The job table in the data directory."""
        return home() / "pneumoscreen.db"

    @property
    def models(self) -> Path:
        """The folder of the registered models' artefacts."""
        return Path(self.models_folder) if self.models_folder else home() / "models"
