"""Which parts of a fine-tuned BERT need their fine-tuning? Put each back to its pretrained weights, and see."""

from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, logging

import netopsy

OUT = Path("runs/examples/fine_tuned_transformer")
CONFIG = BertConfig(
    vocab_size=31,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=8,
    num_labels=3,
)


def build_bert() -> BertForSequenceClassification:
    """Yours would read a config: nothing is downloaded here, and the "pretrained" weights are random."""
    return BertForSequenceClassification(CONFIG)


def sentences(count: int, seed: int) -> dict[str, torch.Tensor]:
    """Words 1-10, 11-20 and 21-30 belong to three topics; the label is the most frequent. What is masked misleads."""
    source = torch.Generator().manual_seed(seed)
    words = torch.randint(1, 31, (count, 8), generator=source)
    mask = (torch.arange(8) < torch.randint(3, 9, (count, 1), generator=source)).long()
    topics = torch.nn.functional.one_hot((words - 1) // 10, 3) * mask[:, :, None]
    return {"input_ids": words, "attention_mask": mask, "labels": topics.sum(1).argmax(1)}


logging.disable_progress_bar()
torch.manual_seed(0)
model = build_bert()
model.save_pretrained(OUT / "pretrained")
train, test = sentences(3000, seed=1), sentences(2000, seed=2)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
for _ in range(2):
    for batch in torch.randperm(3000).split(50):
        optimizer.zero_grad()
        model(**{name: value[batch] for name, value in train.items()}).loss.backward()
        optimizer.step()
model.save_pretrained(OUT / "fine_tuned")

trajectory = netopsy.Trajectory.from_files(build_bert, initial=OUT / "pretrained", final=OUT / "fine_tuned")
parts = ["bert.embeddings", "bert.encoder.layer.*", "bert.pooler", "classifier"]
groups = {"all layers": ["bert.encoder.layer.*"]}
# Eager, because exporting so small a model takes longer than it saves; leave engine= out for a real one.
result = netopsy.robustness(trajectory, test, sites=parts, draws=0, groups=groups, engine="eager")
print(result)
verdict = result.to_frame().dropna(subset="verdict").set_index("site").verdict
for words, wanted in (("Needs its fine-tuning", ("critical", "between")), ("Does not, taken alone", ("robust",))):
    print(f"{words}: {', '.join(verdict.index[verdict.isin(wanted)]) or 'nothing certified'}.")
result.save(OUT / "result", overwrite=True)
