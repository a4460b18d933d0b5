"""The page: what people see and press, on gradio.

Every second it asks how its run is (`_Page.refresh`); work is done elsewhere, so a page that is
closed stops nothing, and one that is opened with `?run=ID` shows that run as it is. Pictures and
files are fetched under their own addresses (`server.py`), not through gradio's copies of them.
"""

from __future__ import annotations

import html
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import jinja2
import numpy as np
from gradio.themes import Default
from gradio.utils import get_upload_folder
from PIL import Image

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import atomic_path, explain_os_errors
from iso3d_jax.core.progress import duration
from iso3d_jax.data.pictures import load_picture
from iso3d_jax.ui import downloads, pictures
from iso3d_jax.ui.queue import OBJECT, VIEWS
from iso3d_jax.ui.runs import (
    DONE,
    FAILED,
    STOPPED,
    WAITING,
    WORKING,
    Drawn,
    Run,
    Store,
    save_picture,
)  # fmt: skip
from iso3d_jax.ui.workers import Workers

EXAMPLES = Path(__file__).parents[1] / "data" / "examples"
POLL_S = 1.0
MOST_SEED = 2**31 - 1
_TEMPLATES = Path(__file__).parent / "templates"
_FONT = ("system-ui", "sans-serif")  # none that would have to be fetched
PARTS = {
    "views": "views of all sides",
    "draft": "draft",
    "optimisation": "optimisation",
    "files": "surface, turntable, mesh",
}

_jinja = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
)


def _render(template: str, **values: Any) -> str:
    return _jinja.get_template(f"{template}.html").render(values)


def theme() -> Default:
    """gradio's look, in fonts that every machine has."""
    return Default(font=_FONT, font_mono=("ui-monospace", "monospace"))


def css() -> str:
    """Styles of the page's own parts."""
    return (_TEMPLATES / "page.css").read_text(encoding="utf-8")


def head() -> str:
    """What the page keeps in the browser: the run's id in its address, and the earlier ones."""
    return (_TEMPLATES / "head.html").read_text(encoding="utf-8")


def make_page(
    store: Store, workers: Workers, max_upload_bytes: int, matting_model: str | None
) -> gr.Blocks:
    """The page, as gradio's blocks."""
    return _Page(store, workers, max_upload_bytes, matting_model).blocks


def _told(function: Callable) -> Callable:
    """A mistake of the user's is shown as its sentence, which may hold anybody's words."""

    def handler(*args: Any) -> Any:
        try:
            with explain_os_errors():
                return function(*args)
        except UserError as error:
            raise gr.Error(
                html.escape(str(error)), duration=None, title="", print_exception=False
            ) from None

    return handler


def _lend(run: Run, file: Path) -> str:
    """A copy of a run's file where gradio may give it out; the run's folder is closed to it."""
    name = f"{run.id}_{file.parent.name}_{file.name}"
    copy = Path(get_upload_folder()) / "runs" / name
    if not copy.is_file() or copy.stat().st_mtime < file.stat().st_mtime:
        with atomic_path(copy) as temporary:
            shutil.copyfile(file, temporary)
    return str(copy)


class _Page:
    """The page's parts, and what happens when they are used."""

    def __init__(
        self, store: Store, workers: Workers, max_upload_bytes: int, matting_model: str | None
    ):
        self._store, self._workers = store, workers
        self._most_bytes, self._matting_model = max_upload_bytes, matting_model
        self._lock = threading.Lock()
        self._examples = sorted(EXAMPLES.glob("*.png"))
        with gr.Blocks(
            title="Isotropic3D", analytics_enabled=False, delete_cache=(3600, 86400)
        ) as self.blocks:
            self._lay_out()
            self._connect()

    def _lay_out(self) -> None:
        gr.HTML(
            '<div class="iso-head"><h1>Isotropic3D</h1><p>One picture of an object to views of all '
            "its sides, and to a 3D object with its texture.</p></div>"
        )
        self.status = gr.HTML(elem_id="status")
        # what a page shows, so that only what changed is sent again; changed in its place, since of
        # two answers on their way at once the later would undo what the other noted
        self.shown = gr.State({})
        self.run_id = gr.Textbox(visible="hidden", elem_id="run-id")
        self.run_name = gr.Textbox(visible="hidden")
        earlier = (_TEMPLATES / "earlier.js").read_text(encoding="utf-8")
        gr.HTML("", js_on_load=earlier)
        with gr.Row():
            with gr.Column(min_width=320):
                self._lay_out_picture()
            with gr.Column(min_width=320):
                self._lay_out_views()
        with gr.Column() as self.object_part:
            self._lay_out_object()
        with gr.Column(visible=False) as self.result_part:
            gr.Markdown("## 4. The result")
            with gr.Row():
                with gr.Column(scale=3, min_width=320):
                    self.mesh = gr.Model3D(
                        label="drag to turn, wheel to come nearer", elem_id="mesh", height=420,
                        interactive=False, clear_color=(0.93, 0.93, 0.95, 1.0),
                    )  # fmt: skip
                    self.display = gr.Radio(
                        [("with its texture", "solid"), ("wireframe", "wireframe")], value="solid",
                        label="Show the mesh", elem_id="display",
                    )  # fmt: skip
                with gr.Column(scale=2, min_width=320):
                    self.files = gr.HTML(elem_id="files")
        self.timer = gr.Timer(POLL_S)

    def _lay_out_picture(self) -> None:
        gr.Markdown("## 1. A picture of one whole object")
        gr.HTML('<p class="iso-note">Best before a plain background, or none.</p>')
        self.upload = gr.File(
            label="PNG, JPEG or WebP",
            file_types=["image"], type="filepath", height=150, elem_id="upload",
        )  # fmt: skip
        strokes = (_TEMPLATES / "brush.js").read_text(encoding="utf-8")
        self.cutout = gr.HTML(elem_id="cutout", js_on_load=strokes)
        ways = [("automatically", "auto"), ("keep it", "never")]
        if pictures.can_matte(self._matting_model):
            ways.append(("cut the object out by a network", "always"))
        self.background = gr.Radio(
            ways, value="auto", label="Remove the background", elem_id="background"
        )
        with gr.Group(visible=False) as self.brush_part:
            self.brush = gr.Radio(
                [("off", ""), ("take away", "away"), ("bring back", "keep")], value="",
                label="Brush", elem_id="brush",
            )  # fmt: skip
            self.size = gr.Slider(1, 30, 8, step=1, label="Brush, % of the picture")
        with gr.Accordion("or one of these", open=True) as self.examples_part:
            self.examples = gr.Gallery(
                [str(path) for path in self._examples], show_label=False, columns=5,
                object_fit="contain", allow_preview=False, interactive=False, buttons=[],
                elem_id="examples",
            )  # fmt: skip

    def _lay_out_views(self) -> None:
        gr.Markdown("## 2. Views of it, in seconds")
        self.views_hint = gr.Markdown("They come when there is a picture.")
        with gr.Column(visible=False) as self.views_part:
            with gr.Row():
                self.seed = gr.Number(
                    0, label="Seed", info="another seed, other views", precision=0,
                    min_width=120, elem_id="seed",
                )  # fmt: skip
                self.guidance = gr.Slider(
                    0.0, 10.0, 1.0, step=0.1, label="Guidance", min_width=160, elem_id="guidance",
                    info="how strongly to follow the picture",
                )  # fmt: skip
            self.draw = gr.Button("Draw four views", variant="primary", elem_id="draw")
            self.drawing = gr.HTML(elem_id="drawing")
            self.sets = gr.Gallery(
                label="choose the best four", columns=2, fit_columns=False, object_fit="contain",
                allow_preview=False, interactive=False, buttons=[], visible=False, elem_id="sets",
            )  # fmt: skip

    def _lay_out_object(self) -> None:
        gr.Markdown("## 3. The 3D object, in minutes")
        self.object_hint = gr.Markdown("It is made from the four views that you choose.")
        with gr.Column(visible=False) as self.make_part:
            with gr.Row():
                self.mode = gr.Radio(
                    [("draft: the views alone, the quicker", "draft"),
                     ("full: and then the model's judgement of all sides", "full")],
                    value="full", label="How", elem_id="mode", min_width=280,
                )  # fmt: skip
                with gr.Column(min_width=240):
                    self.make = gr.Button("Make the 3D object", variant="primary", elem_id="make")
                    self.go_on = gr.Button("Go on", variant="primary", visible=False,
                                           elem_id="go-on")  # fmt: skip
                    self.cancel = gr.Button("Cancel", variant="stop", visible=False,
                                            elem_id="cancel")  # fmt: skip
            self.making = gr.HTML(elem_id="making")

    def _connect(self) -> None:
        everything = [
            self.run_id, self.run_name, self.status, self.upload, self.background,
            self.brush_part, self.examples_part, self.cutout, self.views_hint, self.views_part,
            self.draw, self.seed, self.guidance, self.drawing, self.sets, self.object_hint,
            self.make_part, self.mode, self.make, self.go_on, self.cancel, self.making,
            self.result_part, self.mesh, self.files,
        ]  # fmt: skip
        run = [self.run_id, self.shown]
        brush = [self.brush, self.size]
        quiet: dict[str, Any] = dict(outputs=everything, show_progress="hidden",
                                     concurrency_limit=None)  # fmt: skip
        hidden: dict[str, Any] = dict(api_visibility="private", **quiet)
        self.blocks.load(self.open, [self.shown], **hidden)
        self.timer.tick(_told(self.refresh), [*run, *brush], queue=False, **hidden)
        self.upload.upload(
            _told(self.begin), [self.upload, self.shown, self.background], api_name="begin", **quiet
        )
        self.examples.select(self.begin_example, [self.shown, self.background], **hidden)
        self.background.input(_told(self.cut_again), [*run, self.background, *brush],
                              api_name="background", **quiet)  # fmt: skip
        for control in (self.brush, self.size):
            control.change(_told(self.refresh), [*run, *brush], **hidden)
        self.cutout.submit(self.stroke, [*run, *brush], **hidden)
        self.draw.click(
            _told(self.draw_views), [*run, self.seed, self.guidance], api_name="draw", **quiet
        )
        self.sets.select(self.choose, run, **hidden)
        self.make.click(_told(self.make_object), [*run, self.mode], api_name="make", **quiet)
        self.go_on.click(_told(self.go_on_making), run, api_name="go_on", **quiet)
        self.cancel.click(_told(self.cancel_making), run, api_name="cancel", **quiet)
        self.display.change(
            self.display_as, [self.display, self.shown], [self.mesh], api_visibility="private",
            show_progress="hidden",
        )  # fmt: skip
        self.run_id.change(
            None, [self.run_id, self.run_name], js="(id, name) => window.isoRemember(id, name)"
        )

    # ------------------------------------------------------------------ what people do

    def open(self, shown: dict, request: gr.Request) -> dict:
        """The run that the page's address names."""
        run_id = request.query_params.get("run", "")
        try:
            run = self._store.find(run_id)
        except UserError as error:
            gr.Warning(html.escape(str(error)), duration=None)
            run = None
        else:
            if run_id and run is None:
                gr.Warning("There is no run of this address here: begin with a picture.")
        return self._show(run, shown)

    def refresh(self, run_id: str, shown: dict, brush: str = "", size: float = 8) -> dict:
        """What changed since the last time."""
        return self._show(self._store.find(run_id), shown, brush, size)

    def begin(self, file: str | None, shown: dict, background: str) -> dict:
        """A run of an uploaded picture."""
        if not file:
            raise UserError("give a picture first")
        # gradio's copy, which goes with age: whoever uploads the same picture has the same one
        path = Path(file)
        original = pictures.read_upload(path, self._most_bytes)
        return self._begin(path.name, original, shown, background) | {self.upload: None}

    def begin_example(self, shown: dict, background: str, event: gr.SelectData) -> dict:
        """A run of a picture that ships with the package."""
        path = self._examples[int(event.index) % len(self._examples)]
        with Image.open(path) as image:
            return _told(self._begin)(path.name, image.convert("RGBA"), shown, background)

    def _begin(self, name: str, original: Image.Image, shown: dict, background: str) -> dict:
        cutout = pictures.cut_out(original, background, self._matting_model)
        return self._show(self._store.new(name, original, cutout, background), shown)

    def cut_again(self, run_id: str, shown: dict, background: str, brush: str, size: float) -> dict:
        """The object of the same picture, cut out in another way."""
        run = self._store.find(run_id)
        if run is not None:
            with Image.open(run.folder / "original.png") as image:
                cutout = pictures.cut_out(image.convert("RGBA"), background, self._matting_model)
            self._keep(run, cutout, background=background)
        return self._show(run, shown, brush, size)

    def stroke(
        self, run_id: str, shown: dict, brush: str, size: float, event: gr.EventData
    ) -> dict:
        """What the brush went over is taken away or brought back."""
        return _told(self._stroke)(run_id, shown, brush, size, event._data or {})

    def _stroke(self, run_id: str, shown: dict, brush: str, size: float, data: dict) -> dict:
        run = self._found(run_id)
        with Image.open(run.folder / "original.png") as original:
            before = load_picture(run.folder / "input.png", remove_background="never")
            self._keep(run, pictures.brush(before, original, data.get("strokes")))
        return self._show(run, shown, brush, size)

    def _keep(self, run: Run, cutout: np.ndarray, **values: Any) -> None:
        with run.lock:
            save_picture(Image.fromarray(cutout), run.folder / "input.png")
            run.change(cutouts=run.state.cutouts + 1, **values)

    def draw_views(self, run_id: str, shown: dict, seed: float, guidance: float) -> dict:
        """Four more views."""
        run = self._found(run_id)
        if seed is None or not 0 <= seed <= MOST_SEED or seed != int(seed):
            raise UserError(f"the seed is a whole number from 0 to {MOST_SEED}")
        if guidance is None or not 0 <= guidance <= 1000:
            raise UserError("the guidance is a number from 0 to 1000")
        self._workers.draw(run, Drawn(int(seed), round(float(guidance), 3)))
        return self._show(run, shown) | {self.seed: int(seed) + 1}

    def choose(self, run_id: str, shown: dict, event: gr.SelectData) -> dict:
        """The set that the object is to be made from."""
        run = self._store.find(run_id)
        if run is None or not 0 <= int(event.index) < len(run.state.sets):
            return self._show(run, shown)
        shown["chosen"] = int(event.index)
        return self._show(run, shown)

    def make_object(self, run_id: str, shown: dict, mode: str) -> dict:
        """The object of the chosen set."""
        run = self._found(run_id)
        self._workers.make(run, shown.get("chosen", run.state.chosen), mode)
        return self._show(run, shown)

    def go_on_making(self, run_id: str, shown: dict) -> dict:
        """What is left to do of a stopped object."""
        run = self._found(run_id)
        self._workers.make(run, run.state.chosen, run.state.mode)
        return self._show(run, shown)

    def cancel_making(self, run_id: str, shown: dict) -> dict:
        """Stops the making of the object."""
        run = self._found(run_id)
        self._workers.cancel(run)
        return self._show(run, shown)

    def display_as(self, mode: str, shown: dict) -> dict:
        """The mesh solid or as its edges; the viewer takes that with a mesh alone."""
        shown["mesh"] = ""  # it is sent again the next time
        return gr.update(display_mode=mode, value=None)

    def _found(self, run_id: str) -> Run:
        run = self._store.find(run_id)
        if run is None:
            raise UserError("there is no such run here: begin with a picture")
        return run

    # ------------------------------------------------------------------ what people see

    def _show(self, run: Run | None, shown: dict, brush: str = "", size: float = 8) -> dict:
        """Updates of the parts that are not as they were shown last."""
        w = self._workers
        values: dict[str, Any] = {
            "status": [w.failed, w.doing, w.about, len(w.queue)],
            "guided": run is not None and w.guidance_scale,
        }
        updates: dict[Any, Any] = {
            self.status: _render(
                "status", failed=w.failed, doing=w.doing, about=w.about, waiting=len(w.queue)
            ),
            self.guidance: w.guidance_scale,  # the model's own, as soon as it is known
        }
        with self._lock:
            if run is not None:
                self._show_run(run, shown, values, updates, brush, size)
            keys = self._keys()
            changed = {
                part: update
                for part, update in updates.items()
                if keys[part] not in shown or shown[keys[part]] != values[keys[part]]
            }
            shown.update(values)
        return changed or {self.status: gr.skip()}

    def _keys(self) -> dict[Any, str]:
        """What a part shows is known by; without a change of it the part is not sent again."""
        return {
            self.status: "status", self.cutout: "cutout", self.sets: "sets",
            self.drawing: "drawing", self.making: "making", self.mesh: "mesh",
            self.files: "files", self.draw: "draw", self.make: "buttons",
            self.go_on: "buttons", self.cancel: "buttons", self.run_id: "run",
            self.run_name: "run", self.views_part: "run", self.views_hint: "run",
            self.brush_part: "run", self.examples_part: "run", self.background: "run",
            self.mode: "run", self.seed: "run", self.make_part: "can_make",
            self.object_hint: "can_make",
            self.result_part: "result", self.guidance: "guided",
        }  # fmt: skip

    def _show_run(
        self, run: Run, shown: dict, values: dict, updates: dict, brush: str, size: float
    ) -> None:
        with run.lock:
            state = run.state
            cutout = dict(id=run.id, name=state.name, version=state.cutouts, brush=brush,
                          size=size / 100)  # fmt: skip
            drawing = dict(
                state=state.views, error=state.error, doing=self._workers.doing,
                ahead=self._workers.ahead(run, VIEWS),
            )  # fmt: skip
            making = self._making(run)
            result = str(run.object_folder) if state.object == DONE else ""
            kinds = self._kinds(run) if result else []
        chosen = shown.get("chosen", state.chosen) if shown.get("run") == run.id else state.chosen
        if shown.get("count") != len(state.sets) and not making["busy"]:
            chosen = state.chosen  # what was drawn last
        busy = making["busy"]
        stopped = state.object in (STOPPED, FAILED) and chosen == state.chosen
        # gradio's viewer stays empty where it appears and is given its mesh at once
        mesh = result if shown.get("result") == result else ""
        same = result and chosen == state.chosen
        values |= {
            "run": run.id, "cutout": cutout, "drawing": drawing, "making": making,
            "sets": [run.id, len(state.sets), chosen], "count": len(state.sets), "chosen": chosen,
            "can_make": bool(state.sets), "result": result, "mesh": mesh, "files": [result, kinds],
            "buttons": [busy, run.part == "files", stopped, chosen, bool(same)],
            "draw": [state.views, bool(state.sets)],
        }  # fmt: skip
        drawn = state.views in (WAITING, WORKING)
        updates |= {
            self.run_id: run.id,
            self.run_name: state.name,
            self.background: gr.update(value=state.background),
            self.mode: gr.update(value=state.mode),
            self.seed: max((drawn.seed for drawn in state.sets), default=-1) + 1,
            self.brush_part: gr.update(visible=True),
            self.examples_part: gr.update(open=False),
            self.cutout: _render("cutout", **cutout),
            self.views_hint: gr.update(visible=False),
            self.views_part: gr.update(visible=True),
            self.draw: gr.update(
                value="Another four" if state.sets else "Draw four views", interactive=not drawn,
                variant="secondary" if state.sets else "primary",
            ),
            self.drawing: _render("drawing", **drawing),
            self.sets: gr.update(
                value=[
                    (_lend(run, run.set_file(k, ".png")),
                     f"{'✓ ' if k == chosen else ''}{k + 1}: seed {s.seed}, guidance "
                     f"{s.guidance_scale:g}")
                    for k, s in enumerate(state.sets)
                ],
                visible=bool(state.sets), selected_index=chosen if state.sets else None,
            ),
            self.object_hint: gr.update(visible=not state.sets),
            self.make_part: gr.update(visible=bool(state.sets)),
            self.make: gr.update(
                value=f"Make the 3D object from set {chosen + 1}" if len(state.sets) > 1
                else "Make the 3D object",
                visible=not busy, variant="secondary" if stopped or same else "primary",
            ),
            self.go_on: gr.update(visible=stopped),
            self.cancel: gr.update(visible=busy and run.part != "files"),  # too late then
            self.making: _render("making", **making),
            self.result_part: gr.update(visible=bool(result)),
            self.mesh: _lend(run, run.object_folder / "mesh.glb") if mesh else None,
            self.files: _render(
                "files", id=run.id if result else "", version=state.chosen, kinds=kinds,
                video=downloads.find_turntable(run.object_folder).suffix == ".mp4",
            ),
        }  # fmt: skip

    def _making(self, run: Run) -> dict[str, Any]:
        """What `making.html` shows."""
        state, told = run.state, run.told
        busy = state.object in (WAITING, WORKING)
        names = [name for name in PARTS if not (name == "optimisation" and state.mode == "draft")]
        at = names.index(run.part) if run.part in names else 0
        parts = [
            {"label": PARTS[name], "state": "past" if k < at else "now" if k == at else "later"}
            for k, name in enumerate(names)
        ]
        left, part_left = self._workers.seconds_left(run), run.part_seconds_left()
        counts = (run.step, run.steps) if run.steps else (0, 0)
        if not run.steps and told is not None and not told.doing:
            counts = (told.step, told.total)
        doing = "" if told is None else told.doing if run.steps else told.label
        return dict(
            id=run.id, state=state.object, busy=busy, error=state.error, parts=parts,
            ahead=self._workers.ahead(run, OBJECT) if state.object == WAITING else None,
            cancelled=run.cancelled, compiling=told is not None and "compiling" in told.doing,
            step=counts[0], total=counts[1], doing=doing,
            part_left="" if part_left is None else duration(part_left),
            left="" if left is None else duration(left), preview=run.preview,
        )  # fmt: skip

    def _kinds(self, run: Run) -> list[dict[str, Any]]:
        """What `files.html` lists."""
        found = []
        for name, kind in downloads.KINDS.items():
            state = run.exports.get(name, "")
            at_work = state in (WAITING, WORKING)
            found.append(
                dict(name=name, label=kind.label, what=kind.what, refused=downloads.refuse(name),
                     state=state if at_work else "", error="" if at_work else state)
            )  # fmt: skip
        return found
