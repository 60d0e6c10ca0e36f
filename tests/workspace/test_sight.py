from autoexp.workspace.sight import ours, tried


def test_isolation_is_taken_for_granted_where_it_was_run() -> None:
    trainer = "from autoexp.model import Trial\n"
    assert ours([trainer]) and not ours(["import torch\n"])
    assert tried([trainer, 'PROFILE = "cpu"  # the machine\n'])
    assert not tried([trainer + 'PROFILE = "h100"  # the machine\n'])
