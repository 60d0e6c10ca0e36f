from autoexp.workspace.sight import by_default, ours


def test_isolation_is_taken_for_granted_for_our_trainer_on_a_cpu() -> None:
    trainer = "from autoexp.model import Trial\n"
    assert ours(["import os\n", trainer]) and not ours(["import torch\n"])
    assert by_default([trainer, 'PROFILE = "cpu"  # the machine\n'])
    assert not by_default([trainer + 'PROFILE = "h100"  # the machine\n'])
