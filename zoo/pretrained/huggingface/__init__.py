"""Reads and writes the folders in which transformers keeps a model: `config.json`, tensors, facts for generation.

A family of models is a file here that defines `FAMILY` (`family.Family`), listed by its `model_type` in
`families.MODULES`. It says four things and no more:

- `read_config(settings, names)`: our config, from `config.json` (`settings.Settings`, whose methods refuse what we
  cannot do) and the names of the tensors (a head is tied if there is no tensor for it);
- `write_config(config)`: the same the other way, a dict. What fits into a family is found by reading back what it
  wrote: a config that comes back as it was is of that family, so no family lists what it lacks;
- `table`: module path in our model -> name in theirs, `{}` for the layer; `.weight` or `.bias` is appended, so biases
  and heads that a variant lacks need no entry. A key may also be the whole path of a leaf;
- how a tensor differs, as a `family.View` beside the name: their array in our layout, as a NumPy view. Reading copies
  out of it and writing copies into it, so no conversion is written twice.

`read.py` walks our skeleton, finds each leaf's tensors and checks all names and shapes before memory is taken;
`tensors.py` maps the files; `write.py` walks the same way and streams one tensor after another to the disk.
"""

from zoo.pretrained.huggingface.read import from_pretrained as from_pretrained
from zoo.pretrained.huggingface.write import to_pretrained as to_pretrained
