from autoexp.workspace.sight import ours


def test_isolation_is_taken_for_granted_where_the_trainer_is_ours() -> None:
    assert ours(["import os\n", "from autoexp.model import Trial\n"]) and not ours(["import torch\n"])
