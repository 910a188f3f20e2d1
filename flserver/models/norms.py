"""How far a model is from another, in numbers. Without torch: the rules of a round work with them."""

import math

from flserver.frozen import frozen


@frozen()
class Norms:
    """How far an update is from the model that was sent: the L2 norm over its parameters, and over its floating-point
    buffers, such as running statistics. Infinite where it is too large for float64."""

    parameters: float
    buffers: float

    @property
    def whole(self) -> float:
        """Over both."""
        return math.hypot(self.parameters, self.buffers)
