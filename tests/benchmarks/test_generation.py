"""The measurement of writing runs on a toy that sees: both sides write the same, and every time has its rate."""

from benchmarks import generation


def test_both_sides_write_the_same_texts_about_pictures() -> None:
    report = generation.measure("toy", [1, 3], prompt=6, new=4, repeats=2, cores=1)
    assert report["machine_bandwidth"] > 0 and report["weights_bytes"] > 4 * 49_152 * 32
    for batch in (1, 3):
        found = report[f"batch_{batch}"]
        assert found["same"] == batch
        for part in ("first_token", "step", "whole"):
            assert 0 < found[part]["lowest"] <= found[part]["ratio"] <= found[part]["highest"]
        for side in ("jvlm", "torch"):
            assert found["step"][side]["tokens_per_s"] > 0 and "bandwidth" in found["step"][side]
