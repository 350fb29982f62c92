"""The scenarios, by topic. Importing this registers them all."""

from scenarios import (  # noqa: F401
    encryption,
    ephemeral,
    history,
    invitations,
    joining,
    knocking,
    media,
    messages,
    moderation,
    outages,
    profiles,
    rooms,
)
