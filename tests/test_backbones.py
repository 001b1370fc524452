import functools
import hashlib
import pickle
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch
from safetensors.torch import load_file, save_file

from allinsam.errors import ModelError
from allinsam.sam import backbones
from allinsam.sam.backbones import BACKBONES, ensure_weights, load_backbone, pick_device, weights_path

CONTENT = bytes(range(256)) * 5000
CONTENT_SHA256 = hashlib.sha256(CONTENT).hexdigest()


def empty_weights(name):
    """State dict of a backbone, each tensor one number in a large shape: next to nothing in bytes."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in BACKBONES[name].builder().state_dict().items()}
    return {key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}


# ---------------------------------------------------------------- the table


@pytest.mark.parametrize("name", BACKBONES)
def test_row_says_what_its_encoder_is(name):
    row = BACKBONES[name]
    with torch.device("meta"):
        sam = row.builder()
    tokens = row.frame_px // row.patch_px
    assert row.name == name
    assert sam.image_encoder.img_size == row.frame_px
    assert sam.prompt_encoder.image_embedding_size == (tokens, tokens)
    width = sam.image_encoder.blocks[0].norm1.normalized_shape[0]
    assert row.adapter_width == width // 32
    if row.whole_patch:
        assert tuple(sam.image_encoder.pos_embed.shape[1:]) == (tokens, tokens, width)
    else:
        # No place of its own: any part of a patch looks the same to it.
        assert sam.image_encoder.pos_embed is None
        assert row.crop_px % row.patch_px == 0 and row.crop_px <= row.frame_px


@pytest.mark.parametrize("name", [name for name in BACKBONES if BACKBONES[name].weights_url])
def test_official_weights_have_an_address_and_a_whole_hash(name):
    row = BACKBONES[name]
    assert row.weights_url == f"https://dl.fbaipublicfiles.com/segment_anything/{row.weights_file}"
    assert len(bytes.fromhex(row.weights_sha256)) == 32


# ---------------------------------------------------------------- loading


def test_compact_loads_with_its_published_weights():
    loaded = load_backbone("compact")
    assert loaded.weights_sha256 == BACKBONES["compact"].weights_sha256
    assert sum(value.numel() for value in loaded.sam.parameters()) == 4_391_792
    assert {value.dtype for value in loaded.sam.state_dict().values()} == {torch.float32}
    assert loaded.device == torch.device("cpu")
    assert not loaded.sam.training
    name = "image_encoder.patch_embed.fine.weight"
    assert torch.equal(loaded.sam.state_dict()[name], load_file(weights_path("compact"))[name].float())


def test_encoder_computes_quicker_unless_the_reference_is_asked_for():
    quick, reference = load_backbone("compact"), load_backbone("compact", reference=True)
    pixels = torch.randn(1, 3, 128, 192)
    with torch.no_grad():
        expected = reference.sam.image_encoder(pixels)
        found = quick.sam.image_encoder(pixels)
    assert type(quick.sam.image_encoder.blocks[0].attn) is not type(
        reference.sam.image_encoder.blocks[0].attn
    )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "compact"])
def test_architecture_of_a_file_is_told_from_its_tensors(name, tmp_path):
    path = tmp_path / "mine.pth"
    torch.save(empty_weights(name), path)
    loaded = load_backbone(path)
    assert loaded.backbone is BACKBONES[name]
    assert loaded.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.sam.pixel_mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])


def test_compact_file_under_another_name_is_known(tmp_path):
    path = tmp_path / "fine_tuned.safetensors"
    tensors = load_file(weights_path("compact"))
    tensors["image_encoder.patch_embed.fine.bias"] += 1
    save_file(tensors, path)
    loaded = load_backbone(str(path))
    assert loaded.backbone.name == "compact"
    bias = loaded.sam.image_encoder.patch_embed.fine.bias
    assert torch.equal(bias, tensors["image_encoder.patch_embed.fine.bias"].float())


def test_missing_tensor_is_named(tmp_path):
    tensors = empty_weights("vit_b")
    del tensors["mask_decoder.iou_token.weight"]
    torch.save(tensors, tmp_path / "short.pth")
    with pytest.raises(ModelError, match=r"vit_b: 1 tensors missing \['mask_decoder.iou_token.weight'\]"):
        load_backbone(tmp_path / "short.pth")


def test_unexpected_tensor_is_named(tmp_path):
    torch.save({**empty_weights("vit_b"), "extra.weight": torch.zeros(2)}, tmp_path / "long.pth")
    with pytest.raises(ModelError, match=r"1 unexpected \['extra.weight'\]"):
        load_backbone(tmp_path / "long.pth")


def test_wrong_shape_is_named(tmp_path):
    tensors = {**empty_weights("vit_b"), "image_encoder.pos_embed": torch.zeros(1, 32, 32, 768)}
    torch.save(tensors, tmp_path / "small.pth")
    with pytest.raises(ModelError, match=r"pos_embed is \(1, 32, 32, 768\) instead of \(1, 64, 64, 768\)"):
        load_backbone(tmp_path / "small.pth")


def test_weights_of_another_kind_of_model_are_refused(tmp_path):
    save_file({"layer.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="holds no SAM"):
        load_backbone(tmp_path / "other.safetensors")


class WritesFile:
    """Pickles to a call that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickle_that_would_run_code_is_refused(tmp_path):
    trace = tmp_path / "trace"
    torch.save({"weight": WritesFile(trace)}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(WritesFile(trace), protocol=2))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(ModelError, match="is refused"):
            load_backbone(tmp_path / name)
    assert not trace.exists()


HUGE = torch.zeros(1, dtype=torch.half).expand(2**31, 2**30)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": HUGE}, "holds no SAM"),
        ({**empty_weights("vit_b"), "image_encoder.pos_embed": HUGE}, "instead of"),
        ({5: torch.zeros(1)}, "no state dict"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "'a' in a form that is not read here"),
        ({"a": torch.empty(2, device="meta")}, "Save it as plain numbers"),
    ],
    ids=["huge", "huge under a known name", "a number as name", "sparse", "no values"],
)
def test_tensors_that_no_model_has_are_refused_before_they_take_memory(content, message, tmp_path):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ModelError, match=message):
        load_backbone(tmp_path / "odd.pth")


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64, torch.float32])
def test_values_that_are_no_numbers_are_refused(dtype, tmp_path):
    tensors = load_file(weights_path("compact"))
    name = "image_encoder.patch_embed.fine.bias"
    tensors[name] = torch.full_like(tensors[name], float("nan") if dtype == torch.float32 else 1, dtype=dtype)
    save_file(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(ModelError, match=f"{name} has values that are no numbers"):
        load_backbone(tmp_path / "odd.safetensors")


@pytest.mark.parametrize(
    "content", [b"", b"\x80", b"\x80\x02.", b"\x80\x02K\x05.", b"cos\nsystem\n(S'x'\ntR."]
)
def test_nonsense_under_the_name_of_weights_is_told_in_one_line(content, tmp_path):
    (tmp_path / "odd.pth").write_bytes(content)
    with pytest.raises(ModelError, match="odd.pth") as refused:
        load_backbone(tmp_path / "odd.pth")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_damaged_file_is_named(name, tmp_path):
    whole = weights_path("compact").read_bytes()
    (tmp_path / name).write_bytes(whole[:1000] if name.endswith("safetensors") else b"PK\x03\x04 nothing")
    with pytest.raises(ModelError, match=name):
        load_backbone(tmp_path / name)


def test_training_checkpoint_is_no_state_dict(tmp_path):
    torch.save({"model": {"a": torch.zeros(1)}, "epoch": 3}, tmp_path / "run.pth")
    with pytest.raises(ModelError, match=r"holds \['epoch', 'model'\]"):
        load_backbone(tmp_path / "run.pth")


def test_unknown_name_lists_the_choices():
    with pytest.raises(ModelError, match="compact, vit_b, vit_l, vit_h"):
        load_backbone("vit_x")


def test_weights_not_downloaded_yet(tmp_path):
    with pytest.raises(ModelError, match=r"vit_b are not at .*sam_vit_b_01ec64.pth. Download them"):
        load_backbone("vit_b", weights_dir=tmp_path)


def test_named_file_with_another_hash_is_refused(tmp_path):
    torch.save(empty_weights("vit_b"), tmp_path / "sam_vit_b_01ec64.pth")
    with pytest.raises(ModelError, match="needs ec2df62732614e57"):
        load_backbone("vit_b", weights_dir=tmp_path)


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ModelError, match="Unknown device 'tpu'"):
        pick_device("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="checks the error where no GPU is there")
def test_cuda_without_gpu_is_an_error():
    with pytest.raises(ModelError, match="torch sees no GPU"):
        load_backbone("compact", device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_compact_on_the_gpu():
    assert next(load_backbone("compact", device="auto").sam.parameters()).is_cuda


# ---------------------------------------------------------------- downloading


class FileServer(BaseHTTPRequestHandler):
    """Serves CONTENT. Settings and the log of Range headers are the server's attributes."""

    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.ranges.append(wanted)
        if server.status != 200:
            return self.send_error(server.status)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.knows_ranges else 0
        if start >= len(CONTENT):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        stop = len(CONTENT)
        if server.bytes_before_break and server.breaks:
            server.breaks -= 1
            stop = start + server.bytes_before_break
        self.wfile.write(CONTENT[start:stop])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    """A local server of vit_b's weights, CONTENT, under vit_b's name."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), FileServer)
    server.ranges, server.status, server.knows_ranges = [], 200, True
    server.bytes_before_break, server.breaks = 0, 0
    Thread(target=functools.partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/sam_vit_b_01ec64.pth"
    row = replace(BACKBONES["vit_b"], weights_url=url, weights_sha256=CONTENT_SHA256)
    monkeypatch.setitem(backbones.BACKBONES, "vit_b", row)
    yield server
    server.shutdown()
    server.server_close()


def part_of(folder):
    return folder / "sam_vit_b_01ec64.pth.part"


def test_download_reports_progress_and_leaves_only_the_file(server, tmp_path):
    seen = []
    path = ensure_weights("vit_b", tmp_path / "new", lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == ["sam_vit_b_01ec64.pth"]
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)


def test_file_that_is_there_is_not_fetched_again(server, tmp_path):
    ensure_weights("vit_b", tmp_path)
    ensure_weights("vit_b", tmp_path)
    assert server.ranges == [None]


def test_download_goes_on_where_it_stopped(server, tmp_path):
    part_of(tmp_path).write_bytes(CONTENT[:1000])
    seen = []
    path = ensure_weights("vit_b", tmp_path, lambda done, total: seen.append((done, total)))
    assert server.ranges == ["bytes=1000-"]
    assert seen[0] == (1000, len(CONTENT))
    assert path.read_bytes() == CONTENT


def test_server_without_ranges_starts_over(server, tmp_path):
    server.knows_ranges = False
    part_of(tmp_path).write_bytes(b"x" * 1000)
    assert ensure_weights("vit_b", tmp_path).read_bytes() == CONTENT


def test_lost_connection_is_taken_up_again(server, tmp_path):
    server.bytes_before_break, server.breaks = 200_000, 2
    assert ensure_weights("vit_b", tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=200000-", "bytes=400000-"]


def test_dead_line_keeps_what_is_there_for_the_next_call(server, tmp_path):
    server.bytes_before_break, server.breaks = 300_000, 1
    interrupted = []

    def progress(done, total):
        if done >= 300_000 and not interrupted:
            interrupted.append(done)
            server.status = 503

    with pytest.raises(ModelError, match="answered 503"):
        ensure_weights("vit_b", tmp_path, progress)
    assert part_of(tmp_path).stat().st_size == 300_000
    server.status = 200
    assert ensure_weights("vit_b", tmp_path).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=300000-"


def test_wrong_hash_is_told_and_nothing_is_deleted(server, tmp_path, monkeypatch):
    row = replace(BACKBONES["vit_b"], weights_sha256="0" * 64)
    monkeypatch.setitem(backbones.BACKBONES, "vit_b", row)
    for _ in range(2):
        with pytest.raises(ModelError, match=f"sha256 {CONTENT_SHA256[:16]}.*expected 0000.*delete it"):
            ensure_weights("vit_b", tmp_path)
        assert part_of(tmp_path).read_bytes() == CONTENT
        assert not weights_path("vit_b", tmp_path).exists()


def test_missing_page_names_the_address_and_the_way_by_hand(server, tmp_path):
    server.status = 404
    with pytest.raises(ModelError, match=r"answered 404 .*by hand and save it as .*sam_vit_b_01ec64.pth\."):
        ensure_weights("vit_b", tmp_path)


def test_no_connection_is_told(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(ModelError, match="stopped after 0 bytes.*Try again"):
        ensure_weights("vit_b", tmp_path)


def test_folder_that_cannot_be_made_is_told(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match="could not be written"):
        ensure_weights("vit_b", tmp_path / "file" / "weights")


def test_compact_needs_no_download():
    assert ensure_weights("compact") == weights_path("compact")
