"""Commands whose help shows no value beside switches, those that Typer adds itself (--help, completion) among them."""

from typer.core import TyperCommand, TyperGroup


class _Switches:
    def get_params(self, ctx):
        found = super().get_params(ctx)
        for param in found:
            if getattr(param, "is_flag", False):
                param.metavar = ""
        return found


class Command(_Switches, TyperCommand):
    """One command."""


class Group(_Switches, TyperGroup):
    """Commands below a name."""
