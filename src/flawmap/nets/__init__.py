"""Networks and the differentiable functions they are trained with: autoencoders, SSIM, pretrained features.

Patches (N, C, P, P) come in; reconstructions, features and similarities go out.
It calls core.
"""
