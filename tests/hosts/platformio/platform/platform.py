"""A platform of nnbuild's tests for the real PlatformIO: no packages, the compiler on PATH."""

from platformio.public import PlatformBase


class StandinPlatform(PlatformBase):
    """Nothing of its own."""

    def is_embedded(self):
        """As the platforms of boards say."""
        return True
