"""OpenVLA (Kim et al., "OpenVLA: An Open-Source Vision-Language-Action Model", 2024) in torch, without remote code."""
