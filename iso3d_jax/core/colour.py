"""YIQ, the colour axes of NTSC television: brightness, and a plane of hue and saturation."""

import numpy as np

# [axis, RGB]. Rotating the I-Q plane turns the hue and leaves greys and lightness as they are.
TO_YIQ = np.array(
    [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], np.float32
)
