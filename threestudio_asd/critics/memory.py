"""Memory for a critic and its UNet, without activations."""

from threestudio_asd.critics.lora import LoRACritic

#: A trained parameter's weight, gradient and Adam's two moments.
ADAM_COPIES = 4


def training_bytes(critic: LoRACritic) -> int:
    """Bytes of the frozen UNet, and of the critic's weights, gradients and Adam state.

    The UNet is counted once: a critic on the teacher's own UNet costs no second one. Works on the
    meta device, where nothing is allocated.
    """
    trained = list(critic.parameters())
    adapter = {id(parameter) for parameter in trained}
    frozen = [p for p in critic.net.unet.parameters() if id(p) not in adapter]
    return sum(p.numel() * p.element_size() for p in frozen) + ADAM_COPIES * sum(
        p.numel() * p.element_size() for p in trained
    )
