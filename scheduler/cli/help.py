"""The help of a group of commands: its commands by purpose, each with its whole summary."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

#: The commands by purpose, in the order of the help.
PURPOSES = {
    "Screening": ("demo", "screen", "submit", "status", "watch", "results", "show", "retry", "cancel"),
    "Models": ("evaluate", "accept", "sample-size", "models", "retrain", "runs", "labels"),
    "Nights": ("nightly",),
    "Running it": ("up", "down", "doctor", "alive", "metrics", "audit", "db"),
}

#: More than any summary has. Typer's own help cuts a summary that does not fit on a line.
_LONGEST_SUMMARY = 1000


class CommandGroup(TyperGroup):
    """A group whose help lists its commands by purpose; a group without purposes has one list."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the lists of commands. A summary is the first sentence of a command's help."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        summaries = {
            name: command.get_short_help_str(_LONGEST_SUMMARY)
            for name, command in commands
            if command is not None and not command.hidden
        }
        # Padded, so that the summaries of all lists begin in one column.
        width = max(map(len, summaries), default=0)
        lists = {
            purpose: [name for name in names if name in summaries] for purpose, names in PURPOSES.items()
        }
        listed = {name for names in lists.values() for name in names}
        if ctx.parent is not None:
            lists, listed = {}, set()
        lists["Commands" if not lists else "Other"] = [name for name in summaries if name not in listed]
        for purpose, names in lists.items():
            if names:
                with formatter.section(purpose):
                    formatter.write_dl([(name.ljust(width), summaries[name]) for name in names])
