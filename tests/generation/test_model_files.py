"""Files of models as people have them: each loads, or one line names the file and the fault."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter, TokenType
from peft import LoraConfig
from tokenizers import pre_tokenizers

import tokentape as tt
from tests.generation.cold_runs import GREEDY
from tokentape.generation.models.loading import load_tokenizer
from tokentape.store import DatabaseStore

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
HIDDEN, FEED_FORWARD = 64, 96
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
BPE = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *BYTES, "he", "ll", "hell"]
WORDS = ["▁", "h", "e", "l", "o", "▁he", "ll", "▁hell", "▁hello"]
SPM = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]


def write_bpe(writer: GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(BPE)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(BPE) - 3))
    writer.add_token_merges(["h e", "l l", "he ll"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)


def write_spm(writer: GGUFWriter) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(SPM)
    writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(5)] + [-0.1, -0.2, -0.3, -0.05])
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    kinds += [TokenType.BYTE] * 256 + [TokenType.NORMAL] * len(WORDS)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)


def write_gguf(path: Path, kind: str) -> None:
    """Write a random Llama with two layers and the vocabulary of a kind."""
    writer = GGUFWriter(path, "llama")
    vocabulary = len(BPE if kind == "bpe" else SPM)
    writer.add_context_length(2048)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(2)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(vocabulary)
    {"bpe": write_bpe, "spm": write_spm, "none": lambda writer: None}[kind](writer)
    writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (vocabulary, HIDDEN),
        "output": (vocabulary, HIDDEN),
        "output_norm": (HIDDEN,),
    }
    for layer in range(2):
        for name, shape in (
            ("attn_q", (HIDDEN, HIDDEN)),
            ("attn_k", (HIDDEN // 2, HIDDEN)),
            ("attn_v", (HIDDEN // 2, HIDDEN)),
            ("attn_output", (HIDDEN, HIDDEN)),
            ("ffn_gate", (FEED_FORWARD, HIDDEN)),
            ("ffn_up", (FEED_FORWARD, HIDDEN)),
            ("ffn_down", (HIDDEN, FEED_FORWARD)),
            ("attn_norm", (HIDDEN,)),
            ("ffn_norm", (HIDDEN,)),
        ):
            shapes[f"blk.{layer}.{name}"] = shape
    numbers = np.random.default_rng(0)
    for name, shape in shapes.items():
        values = numbers.standard_normal(shape) * 0.2 if len(shape) == 2 else np.ones(shape)
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    for kind in ("bpe", "spm", "none"):
        write_gguf(folder / f"{kind}.gguf", kind)
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ["bpe", "spm"])
def test_a_gguf_file_is_recorded_and_verified(
    kind: str, written: Path, store: DatabaseStore
) -> None:
    lm = tt.load_model(written / f"{kind}.gguf")
    for text in ("hello é漢", "a  b"):
        assert lm.tokenizer.decode(lm.tokenizer.encode(text, add_special_tokens=False)) == text
    with tt.Recorder(store) as recorder:
        tt.ManualGenerator(lm.model, lm.tokenizer, recorder).generate("hello", **GREEDY)

    recording = store.recording(store.summaries()[0].run_id)
    assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED


@pytest.mark.parametrize(
    "name", ["m.gguf", "./m.gguf", "~/m.gguf", "M.GGUF", "./M.GGUF", "~/M.Gguf", "one", "~/one"]
)
def test_a_gguf_file_is_found_by_each_spelling_of_its_path(
    name: str, written: Path, home: Path
) -> None:
    """Also by its folder, if that has no config and no other such file."""
    target = Path(name).expanduser()
    target = target / "model.gguf" if target.name == "one" else target
    target.parent.mkdir(exist_ok=True)
    shutil.copy(written / "bpe.gguf", target)

    assert tt.load_model(name).name == name
    assert len(load_tokenizer(name)) == len(BPE)


def test_parts_and_several_files_are_named(written: Path, tmp_path: Path) -> None:
    data = (written / "bpe.gguf").read_bytes()
    first = tmp_path / "m-00001-of-00003.gguf"
    first.write_bytes(data)
    with pytest.raises(tt.ModelError, match=r"m-00001-of-00003.gguf is part 1 of 3 .*--merge"):
        tt.load_model(first)
    shutil.copy(first, tmp_path / "M-00001-OF-00001.GGUF")
    assert tt.load_model(tmp_path / "M-00001-OF-00001.GGUF")
    with pytest.raises(tt.ModelError, match=r"2 GGUF files: name one of them: .*GGUF, m-00001"):
        tt.load_model(tmp_path)


@pytest.mark.parametrize("share", [0, 3, 10, 50, 300, 3000, 0.5, 0.99])
def test_a_gguf_file_that_was_cut_off_is_named(share: float, written: Path, tmp_path: Path) -> None:
    data = (written / "bpe.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(data[: int(share * len(data)) if isinstance(share, float) else share])

    for load in (tt.load_model, load_tokenizer):
        if load is load_tokenizer and share in (0.5, 0.99):
            continue  # the tokenizer is in the first part
        with pytest.raises(tt.ModelError, match=r"cut\.gguf") as refusal:
            load(str(cut))
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (LFS_POINTER.encode(), "Git LFS pointer"),
        (b"<!doctype html><html>", "a web page"),
        (b"\x1f\x8b\x08" + bytes(50), "gzip"),
        (b"lmgg" + bytes(50), "not a GGUF file"),
    ],
)
def test_a_file_that_is_no_gguf_file_is_named(content: bytes, fault: str, tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(content)

    with pytest.raises(tt.ModelError, match=rf"x\.gguf .*{fault}"):
        tt.load_model(file)


def test_a_gguf_file_without_a_tokenizer_is_named(written: Path) -> None:
    with pytest.raises(tt.ModelError, match=r"none\.gguf"):
        tt.load_model(written / "none.gguf")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("content", [LFS_POINTER, "", "{", "cut"])
def test_a_damaged_file_of_a_folder_is_named(
    name: str, content: str, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_folder, folder)
    damaged = folder / name
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2] if content == "cut" else content.encode())

    with pytest.raises(tt.ModelError) as refusal:
        tt.load_model(folder)

    assert "\n" not in str(refusal.value)
    assert os.fspath(damaged if content in (LFS_POINTER, "") else folder) in str(refusal.value)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer"])
def test_a_folder_that_lacks_a_file_is_named_as_a_folder(
    missing: str, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_folder, folder)
    for file in folder.glob(f"{missing}*"):
        file.unlink()

    with pytest.raises(tt.ModelError, match=r"no model can be loaded from the folder '.*/tiny'"):
        tt.load_model(folder)


def test_a_safetensors_file_may_begin_with_any_length(tiny_folder: Path, tmp_path: Path) -> None:
    """The length of its header can look like the magic of another format."""
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_folder, folder)
    file = folder / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    padded = int.from_bytes(b"\x1f\x8b", "little")
    assert length < padded
    header = data[8 : 8 + length] + b" " * (padded - length)
    file.write_bytes(padded.to_bytes(8, "little") + header + data[8 + length :])

    assert tt.load_model(folder)


@pytest.fixture
def adapter(tiny_folder: Path, tmp_path: Path) -> Path:
    """Return the folder of a LoRA adapter of the tiny model, as PEFT saves it."""
    base = tmp_path / "base"
    shutil.copytree(tiny_folder, base)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    model = tt.load_model(base).model
    try:
        model.add_adapter(config)
    except ValueError as error:  # a release of transformers may need a PEFT that is not out yet
        if "PEFT" not in str(error):
            raise
        pytest.skip(str(error))
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_without_a_tokenizer_has_that_of_its_base(
    adapter: Path, store: DatabaseStore
) -> None:
    lm = tt.load_model(adapter)
    with tt.Investigation(lm, store=store, name="adapted", system_prompt="Hi.") as run:
        run.chat("hello", **GREEDY)

    recording = store.recording(run.run_id)
    assert tt.verify(recording, tt.load_model(adapter)).verdict is tt.Verdict.VERIFIED
    assert tt.verify(recording, tt.load_model(adapter.parent / "base")).verdict is (
        tt.Verdict.INCOMPARABLE
    )
    assert len(load_tokenizer(os.fspath(adapter))) == len(lm.tokenizer)


def test_an_adapter_whose_base_is_missing_names_it(adapter: Path) -> None:
    shutil.rmtree(adapter.parent / "base")

    with pytest.raises(tt.ModelError, match=r"adapter.*base"):
        tt.load_model(adapter)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"base_model_name_or_path": 3}'])
def test_a_damaged_config_of_an_adapter_is_named(content: str, adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text(content)

    with pytest.raises(tt.ModelError) as refusal:
        tt.load_model(adapter)

    assert "\n" not in str(refusal.value)
    assert os.fspath(adapter) in str(refusal.value)
