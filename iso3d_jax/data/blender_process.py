"""What runs in Blender's own process: takes objects and cameras from a pipe, gives back pictures.

    PYTHON blender_process.py READ WRITE        file descriptors of two pipes

PYTHON is one that has the package bpy and NumPy and need have nothing else: bpy wants one version
of Python and an older NumPy than JAX does. So this file imports nothing of the project;
`blender.py` is the other end, which takes `send` and `receive` from here and never imports bpy.
"""

import contextlib
import ctypes
import json
import os
import signal
import struct
import sys
import tempfile
import traceback

import numpy as np

_HEAD = struct.Struct("<Q")


def send(pipe, message, arrays=()):
    """Writes a message: what JSON can hold, and arrays."""
    arrays = [np.ascontiguousarray(array) for array in arrays]
    kinds = [[array.dtype.str, list(array.shape)] for array in arrays]
    head = json.dumps([message, kinds]).encode()
    pipe.write(_HEAD.pack(len(head)) + head)
    for array in arrays:
        pipe.write(array.tobytes())
    pipe.flush()


def receive(pipe):
    """A message and its arrays.

    Raises:
      EOFError: the other end is closed.
    """
    (length,) = _HEAD.unpack(_read(pipe, _HEAD.size))
    message, kinds = json.loads(_read(pipe, length))
    arrays = []
    for kind, shape in kinds:
        dtype = np.dtype(kind)
        data = _read(pipe, dtype.itemsize * int(np.prod(shape, dtype=np.int64)))
        arrays.append(np.frombuffer(data, dtype).reshape(shape))
    return message, arrays


def _read(pipe, count):
    data = pipe.read(count)
    if len(data) < count:
        raise EOFError("the pipe is closed")
    return data


class Scene:
    """Blender's scene: one camera, a world that gives light, and one object at a time."""

    def __init__(self, bpy, resolution, samples):
        self.bpy, self._resolution, self._samples = bpy, resolution, samples
        self._folder = tempfile.TemporaryDirectory()
        self._file = os.path.join(self._folder.name, "view.png")

    def _begin(self):
        """An empty scene. What is kept from one view to the next is of one object alone: else
        Cycles takes a new picture for one that it has, where it lies at the same address."""
        bpy = self.bpy
        bpy.ops.wm.read_factory_settings(use_empty=True)
        scene = self.scene = bpy.context.scene
        scene.render.engine = "CYCLES"
        scene.render.resolution_x = scene.render.resolution_y = self._resolution
        scene.render.resolution_percentage = 100
        scene.render.film_transparent = True
        scene.render.use_persistent_data = True
        scene.render.dither_intensity = 0.0
        scene.render.threads_mode, scene.render.threads = "FIXED", 1
        scene.render.image_settings.file_format = "PNG"
        scene.render.image_settings.color_mode = "RGBA"
        scene.render.image_settings.compression = 0
        scene.view_settings.view_transform = "Standard"
        cycles = scene.cycles
        cycles.device, cycles.samples, cycles.seed = "CPU", self._samples, 0
        cycles.use_adaptive_sampling, cycles.use_denoising = False, True
        cycles.pixel_filter_type, cycles.filter_width = "BOX", 1.0
        cycles.max_bounces, cycles.transparent_max_bounces = 4, 32
        camera = self.camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
        camera.data.sensor_fit, camera.data.clip_start = "HORIZONTAL", 1e-3
        scene.collection.objects.link(camera)
        scene.camera = camera
        scene.world = bpy.data.worlds.new("world")

    def close(self):
        """Removes its temporary files."""
        self._folder.cleanup()

    def load(self, message, arrays):
        """Takes the parts of one object, and what gives light, in place of the last one's."""
        self._begin()
        for k, part in enumerate(message["parts"]):
            self._add_part(f"part{k}", part, {n: arrays[i] for n, i in part["arrays"].items()})
        self._light(message, arrays)

    def _add_part(self, name, part, arrays):
        bpy, points = self.bpy, arrays["positions"].reshape(-1, 3)
        mesh = bpy.data.meshes.new(name)
        count = len(points)
        mesh.vertices.add(count)
        mesh.vertices.foreach_set("co", points.ravel())
        mesh.loops.add(count)
        mesh.loops.foreach_set("vertex_index", np.arange(count, dtype=np.int32))
        mesh.polygons.add(count // 3)
        mesh.polygons.foreach_set("loop_start", np.arange(0, count, 3, dtype=np.int32))
        for key in ("uv", "glow_uv"):
            if key in arrays:
                layer = mesh.uv_layers.new(name=key)
                layer.uv.foreach_set("vector", arrays[key].ravel())
        if "tint" in arrays:
            tint = mesh.color_attributes.new("tint", "FLOAT_COLOR", "CORNER")
            tint.data.foreach_set("color", arrays["tint"].ravel())
        mesh.update()
        mesh.polygons.foreach_set("use_smooth", np.ones(count // 3, bool))
        mesh.normals_split_custom_set(arrays["normals"].reshape(-1, 3))
        mesh.materials.append(self._material(name, part, arrays))
        self.scene.collection.objects.link(bpy.data.objects.new(name, mesh))

    def _material(self, name, part, arrays):
        material = self.bpy.data.materials.new(name)
        material.use_nodes = True
        nodes = _Nodes(material.node_tree)
        colour, alpha = nodes.colour(part["colour"]), nodes.number(part["opacity"])
        if "texture" in arrays:
            texel = self._texture(nodes, arrays["texture"], "uv", part["wrap"], part["nearest"])
            colour = nodes.product(colour, texel.outputs["Color"])
            alpha = nodes.math("MULTIPLY", alpha, texel.outputs["Alpha"])
        if "tint" in arrays:
            tint = nodes.add("ShaderNodeAttribute", attribute_name="tint")
            colour = nodes.product(colour, tint.outputs["Color"])
            alpha = nodes.math("MULTIPLY", alpha, tint.outputs["Alpha"])
        if part["cut"] is not None:
            alpha = nodes.math("GREATER_THAN", alpha, nodes.number(part["cut"]))
        if not part["mixed"] and part["cut"] is None:
            alpha = nodes.number(1.0)
        if not part["two_sided"]:
            back = nodes.add("ShaderNodeNewGeometry").outputs["Backfacing"]
            alpha = nodes.math("MULTIPLY", alpha, nodes.math("SUBTRACT", nodes.number(1.0), back))
        if part["unlit"]:
            surface = nodes.add("ShaderNodeEmission")
        else:
            surface = nodes.add("ShaderNodeBsdfDiffuse")
        nodes.link(colour, surface.inputs["Color"])
        shader = surface.outputs[0]
        if part["glow"] is not None:
            glow = nodes.add("ShaderNodeEmission")
            light = nodes.colour(part["glow"])
            if "glow_texture" in arrays:
                how = part["glow_wrap"], part["glow_nearest"]
                texel = self._texture(nodes, arrays["glow_texture"], "glow_uv", *how)
                light = nodes.product(light, texel.outputs["Color"])
            nodes.link(light, glow.inputs["Color"])
            both = nodes.add("ShaderNodeAddShader")
            nodes.link(shader, both.inputs[0])
            nodes.link(glow.outputs[0], both.inputs[1])
            shader = both.outputs[0]
        mix = nodes.add("ShaderNodeMixShader")
        nodes.link(alpha, mix.inputs[0])
        nodes.link(nodes.add("ShaderNodeBsdfTransparent").outputs[0], mix.inputs[1])
        nodes.link(shader, mix.inputs[2])
        nodes.link(mix.outputs[0], nodes.add("ShaderNodeOutputMaterial").inputs["Surface"])
        return material

    def _picture(self, name, pixels, colours):
        """An image of [h, w, 3] or [h, w, 4] numbers, row 0 at the top."""
        height, width, channels = pixels.shape
        image = self.bpy.data.images.new(
            name, width, height, alpha=True, float_buffer=pixels.dtype != np.uint8
        )
        image.colorspace_settings.name = colours
        image.alpha_mode = "CHANNEL_PACKED"
        scale = 255.0 if pixels.dtype == np.uint8 else 1.0
        filled = np.ones((height, width, 4), np.float32)
        filled[..., :channels] = pixels[::-1] / scale
        image.pixels.foreach_set(filled.ravel())
        image.update()
        return image

    def _texture(self, nodes, pixels, uv, wrap, nearest):
        texture = nodes.add("ShaderNodeTexImage")
        texture.image = self._picture("texture", pixels, "sRGB")
        texture.interpolation = "Closest" if nearest else "Linear"
        where = nodes.add("ShaderNodeUVMap", uv_map=uv).outputs["UV"]
        extensions = {"repeat": "REPEAT", "mirror": "MIRROR", "clamp": "EXTEND"}
        if wrap[0] == wrap[1]:
            texture.extension = extensions[wrap[0]]
        else:
            texture.extension = "EXTEND"
            apart, together = nodes.add("ShaderNodeSeparateXYZ"), nodes.add("ShaderNodeCombineXYZ")
            nodes.link(where, apart.inputs[0])
            for k, kind in enumerate(wrap):
                at = apart.outputs[k]
                if kind == "repeat":
                    at = nodes.math("FRACT", at)
                elif kind == "mirror":
                    at = nodes.math("PINGPONG", at, nodes.number(1.0))
                nodes.link(at, together.inputs[k])
            where = together.outputs[0]
        nodes.link(where, texture.inputs["Vector"])
        return texture

    def _light(self, message, arrays):
        world = self.scene.world
        world.use_nodes = True
        world.node_tree.nodes.clear()
        nodes = _Nodes(world.node_tree)
        sky = nodes.add("ShaderNodeTexEnvironment")
        if message["picture"]:
            sky.image = self.bpy.data.images.load(message["picture"])
        else:
            sky.image = self._picture("sky", arrays[message["sky"]], "Linear Rec.709")
        turn = nodes.add("ShaderNodeMapping")
        turn.inputs["Rotation"].default_value = (0.0, 0.0, -message["turn"])
        nodes.link(nodes.add("ShaderNodeTexCoord").outputs["Generated"], turn.inputs["Vector"])
        nodes.link(turn.outputs["Vector"], sky.inputs["Vector"])
        background = nodes.add("ShaderNodeBackground")
        nodes.link(sky.outputs["Color"], background.inputs["Color"])
        output = nodes.add("ShaderNodeOutputWorld")
        nodes.link(background.outputs[0], output.inputs["Surface"])

    def render(self, c2w, fov_deg):
        """The PNG of a view, straight alpha.

        Args:
          c2w: [4, 4] OpenGL camera to world, as Blender's cameras are.
        """
        import mathutils

        self.camera.matrix_world = mathutils.Matrix(c2w.tolist())
        self.camera.data.angle = float(np.radians(fov_deg))
        self.camera.data.clip_end = float(np.linalg.norm(c2w[:3, 3])) + 10.0
        self.scene.render.filepath = self._file
        self.bpy.ops.render.render(write_still=True)
        with open(self._file, "rb") as file:
            return np.frombuffer(file.read(), np.uint8)


class _Nodes:
    """The nodes of a material or world."""

    def __init__(self, tree):
        self._tree = tree
        tree.nodes.clear()

    def add(self, kind, **settings):
        node = self._tree.nodes.new(kind)
        for name, value in settings.items():
            setattr(node, name, value)
        return node

    def link(self, output, end):
        self._tree.links.new(output, end)

    def number(self, value):
        node = self.add("ShaderNodeValue")
        node.outputs[0].default_value = value
        return node.outputs[0]

    def colour(self, rgb):
        node = self.add("ShaderNodeRGB")
        node.outputs[0].default_value = (*rgb, 1.0)
        return node.outputs[0]

    def math(self, operation, *inputs):
        node = self.add("ShaderNodeMath", operation=operation)
        for k, value in enumerate(inputs):
            self.link(value, node.inputs[k])
        return node.outputs[0]

    def product(self, a, b):
        node = self.add("ShaderNodeVectorMath", operation="MULTIPLY")
        self.link(a, node.inputs[0])
        self.link(b, node.inputs[1])
        return node.outputs[0]


def end_with_parent():
    """Has Linux end this process when the one that started it ends: at work it reads no pipe."""
    set_parent_death_signal = 1
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other systems
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def main(read, write):
    """Does what it is told until the other end closes the pipe."""
    end_with_parent()
    with os.fdopen(read, "rb") as asked, os.fdopen(write, "wb") as answers:
        try:
            import bpy
        except ImportError as e:
            send(answers, {"fault": f"no module bpy in {sys.executable}: {e}"})
            return
        message, _ = receive(asked)
        scene = Scene(bpy, message["resolution"], message["samples"])
        send(answers, {"blender": bpy.app.version_string})
        try:
            while True:
                try:
                    message, arrays = receive(asked)
                except EOFError:
                    return
                try:
                    found = []
                    if message["do"] == "load":
                        scene.load(message, arrays)
                    else:
                        found = [scene.render(arrays[0], message["fov_deg"])]
                except Exception:
                    send(answers, {"fault": traceback.format_exc().strip().splitlines()[-1]})
                    continue
                send(answers, {}, found)
        finally:
            scene.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
