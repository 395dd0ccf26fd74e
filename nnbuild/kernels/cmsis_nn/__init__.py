"""CMSIS-NN's int8 kernels, called directly: the function that fits a layer, not the wrapper that links them all.

API and scratch sizes: CMSIS-NN 6.0.0 and newer, `arm_nnfunctions.h` and `*_get_buffer_sizes_s8.c`; a test compares the
sizes with the library's own functions. A kernel's `supports` says what the library, or this version of it, cannot do.
"""

from nnbuild.kernels.cmsis_nn.convolution import CONVOLVE as CONVOLVE
from nnbuild.kernels.cmsis_nn.convolution import DEPTHWISE as DEPTHWISE
from nnbuild.kernels.cmsis_nn.elementwise import ADD as ADD
from nnbuild.kernels.cmsis_nn.elementwise import MAXIMUM as MAXIMUM
from nnbuild.kernels.cmsis_nn.elementwise import MINIMUM as MINIMUM
from nnbuild.kernels.cmsis_nn.elementwise import MUL as MUL
from nnbuild.kernels.cmsis_nn.fully_connected import FULLY_CONNECTED as FULLY_CONNECTED
from nnbuild.kernels.cmsis_nn.lstm import LSTM as LSTM
from nnbuild.kernels.cmsis_nn.moves import CONCAT as CONCAT
from nnbuild.kernels.cmsis_nn.moves import PAD as PAD
from nnbuild.kernels.cmsis_nn.moves import TRANSPOSE as TRANSPOSE
from nnbuild.kernels.cmsis_nn.pools import AVERAGE_POOL as AVERAGE_POOL
from nnbuild.kernels.cmsis_nn.pools import MAX_POOL as MAX_POOL
from nnbuild.kernels.cmsis_nn.softmax import SOFTMAX as SOFTMAX
