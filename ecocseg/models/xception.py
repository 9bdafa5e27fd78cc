"""Xception as UniMatch runs it for COCO, on the modules and weights of timm's.

Source: LiheYoung/UniMatch `model/backbone/xception.py`. It has the parameters of timm's and differs
in four places: at output stride 16 nothing is dilated (timm doubles the dilation where a stride
goes), the low-level map is taken before the ReLU, a shortcut without a convolution starts behind
the block's first ReLU (which there works in place), and the batch statistics move by 0.0003 a step.
The epsilon of the norms is timm's, 0.001, with which its weights were trained (there 0.00001).
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

MOMENTUM = 0.0003
LOW = 1
"""The block whose third convolution goes from stride 4 to 8."""


class XceptionEncoder(nn.Module):
    """An aligned Xception of timm's at output stride 16: the image and maps at strides 4 and 16."""

    def __init__(self, xception: Any) -> None:
        """`xception` was made for output stride 32, so that none of its convolutions is dilated."""
        super().__init__()
        self.stem, self.blocks = xception.stem, xception.blocks
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = MOMENTUM
        # The low-level map must outlive the ReLU.
        self.blocks[LOW].stack.act3.inplace = False
        last = next(block for block in reversed(self.blocks) if block.shortcut is not None)
        last.stack.conv3.conv_dw.stride = last.shortcut.conv.stride = (1, 1)
        low = self.blocks[LOW].stack.conv2.conv_pw.out_channels
        self.out_channels = (3, low, int(xception.num_features))

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B,3,H,W] to the image, [B,256,H/4,W/4] and [B,2048,H/16,W/16]."""
        features = self.stem(images)
        maps = [images]
        for place, block in enumerate(self.blocks):
            if place == LOW:
                low = block.stack[:-2](features)
                maps.append(low)
                features = block.stack[-2:](low) + block.shortcut(features)
            elif block.no_skip or block.shortcut is not None:
                features = block(features)
            else:
                features = block(F.relu(features))
        return [*maps, features]
