"""What a verifier should expect of one build, and the reference value that ``myelin attest`` reads."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from myelin.attest import Measurement, RealEvidence
from myelin.errors import InputError

__all__ = ["Measured", "Part", "reference_toml"]


@dataclass(frozen=True)
class Part:
    """One thing that went into a register: its digest where it has one of its own, and whether it was
    computed from what was given or is only what an event log says."""

    register: str
    what: str
    digest: bytes | None
    computed: bool = True


@dataclass(frozen=True)
class Measured:
    """The registers of one build, by the names that policies have for them, and what each is made of."""

    kind: RealEvidence
    registers: tuple[tuple[str, bytes], ...]
    parts: tuple[Part, ...]

    @property
    def assumed(self) -> tuple[Part, ...]:
        """What stands on the word of an event log alone."""
        return tuple(part for part in self.parts if not part.computed)


def reference_toml(
    measured: Measured, *, image: bytes | None = None, minimum_security_version: int = 0
) -> str:
    """A file of reference values with this build, for ``myelin attest --reference``; without its first line
    it can stand in a policy.

    Args:
        measured: the build.
        image: the measurement of the Myelin image that it runs, 32 bytes: contracts need it.
        minimum_security_version: the least version of the guest that its report must say.

    Raises:
        InputError: a register that is missing, or ``image`` of another length.
    """
    try:
        value = Measurement(
            kind=measured.kind,
            registers=measured.registers,
            minimum_security_version=minimum_security_version,
            image=image,
        )
    except ValidationError as error:
        raise InputError(
            f"reference value: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
        ) from None
    lines = ["version = 1", "", "[[measurements]]", f'kind = "{value.kind.value}"']
    if value.image is not None:
        lines.append(f'image = "{value.image.hex()}"')
    if value.minimum_security_version:
        lines.append(f"minimum_security_version = {value.minimum_security_version}")
    lines.append("[measurements.registers]")
    lines += [f'{name} = "{register.hex()}"' for name, register in value.registers]
    return "\n".join([*lines, ""])
