"""A trained bundle as one file that other programs run: TorchScript, torch.export or ONNX.

The network stands in it with its standardisation: it takes images in [0, 1] as the bundle's preprocessing gives them,
in float32 and in batches of any size, and gives logits. Beside it the file carries the bundle's metadata and inference
configuration, as MONAI's ``ckpt_export`` puts them there: ``rtda evaluate --model FILE`` reads them back.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from ..files import write_whole
from ..handlers import load_weights
from .bundle import Bundle, BundleError, Run, read_yaml
from .pack import inference_config, metadata_of
from .programs import CARRIED

Carried = Mapping[str, str]


def export(source: Bundle | Run, form: str, out: Path) -> Path:
    """Write the network of a packed bundle, or of a run's best checkpoint, as one file.

    Args:
        source: where network and weights are.
        form: one of ``FORMS``.
        out: the file to write, whole or not at all.

    Raises:
        BundleError: a package that the form needs is not installed.
    """
    network, metadata, config = parts(source)
    shape = metadata["network_data_format"]["inputs"]["image"]
    image = torch.rand(2, shape["num_channels"], *shape["spatial_shape"], generator=torch.Generator().manual_seed(0))
    carried = dict(zip(CARRIED, (json.dumps(one, ensure_ascii=False) for one in (metadata, config)), strict=True))
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")  # of deprecation: what each form promises is tested by its numbers
        return write_whole(out, FORMS[form](network, image, carried))


def parts(source: Bundle | Run) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """The network with its weights, on the CPU, ready to predict; metadata and inference configuration."""
    if isinstance(source, Run):
        bundle, config, weights = source.bundle, inference_config(source), source.folder / "best.pt"
        metadata = metadata_of(source)
    else:
        bundle, weights = source, source.root / "models" / "model.pt"
        config, metadata = read_yaml(source.config("inference")), source.metadata
    network: nn.Module = ConfigParser(config).get_parsed_content("network_def")
    network.load_state_dict(load_weights(weights))
    return network.eval(), {**metadata, "bundle": bundle.name}, config


def _torchscript(network: nn.Module, image: Tensor, carried: Carried) -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(network), file, _extra_files=dict(carried))
    return file.getvalue()


def _torch_export(network: nn.Module, image: Tensor, carried: Carried) -> bytes:
    file = io.BytesIO()
    program = torch.export.export(network, (image,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, file, extra_files=dict(carried))
    return file.getvalue()


def _onnx(network: nn.Module, image: Tensor, carried: Carried) -> bytes:
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise BundleError(f"export: {error.name}: not installed; pip install 'rtda[onnx]'") from error
    program = torch.onnx.export(
        network,
        (image,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["image"],
        output_names=["pred"],
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, dict(carried))
    content: bytes = model.SerializeToString()
    return content


FORMS: dict[str, Callable[[nn.Module, Tensor, Carried], bytes]] = {
    "ts": _torchscript,
    "pt2": _torch_export,
    "onnx": _onnx,
}
"""Name of a form, which is its file's ending -> what makes its bytes."""
