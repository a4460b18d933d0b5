"""Objects of 0 A.D.: meshes, poses and actors, on files that are made here byte by byte."""

import io
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import asset_sources, beside, zero_ad
from iso3d_jax.data.meshes import BadMesh
from iso3d_jax.data.pmd import NO_BONE, read_pmd, read_pose

STILL = (0.0, 0.0, 0.0, 1.0)  # the rotation that changes nothing
QUARTER_ABOUT_Y = (0.0, np.sqrt(0.5), 0.0, np.sqrt(0.5))
TRIANGLE = [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 2.0, 0.0)]


def file_of(magic: bytes, version: int, body: bytes) -> bytes:
    return magic + struct.pack("<II", version, len(body)) + body


def bone(position=(0.0, 0.0, 0.0), rotation=STILL) -> bytes:
    return struct.pack("<7f", *position, *rotation)


def pmd(points=TRIANGLE, bones=(), attached=(), moved_by=NO_BONE, version=4, faces=((0, 1, 2),)):
    body = struct.pack("<I", len(points)) + (struct.pack("<I", 1) if version >= 4 else b"")
    for k, point in enumerate(points):
        body += struct.pack("<8f", *point, 0.0, 0.0, 1.0, 0.25 * k, 0.5)
        body += struct.pack("<4B4f", moved_by, *3 * [NO_BONE], 1.0, 0.0, 0.0, 0.0)
    body += struct.pack("<I", len(faces)) + b"".join(struct.pack("<3H", *face) for face in faces)
    body += struct.pack("<I", len(bones)) + b"".join(bones)
    body += struct.pack("<I", len(attached))
    for name, frame, number in attached:
        body += struct.pack("<I", len(name)) + name.encode() + frame + struct.pack("<B", number)
    return file_of(b"PSMD", version, body)


def psa(*bones: bytes) -> bytes:
    head = struct.pack("<I", 4) + b"idle" + struct.pack("<f2I", 33.3, len(bones), 1)
    return file_of(b"PSSA", 1, head + b"".join(bones))


def dds(rgba) -> bytes:
    out = io.BytesIO()
    Image.new("RGBA", (4, 4), tuple(rgba)).save(out, "DDS")
    return out.getvalue()


@pytest.mark.parametrize("version", [3, 4])
def test_a_mesh_is_right_handed(version):
    mesh = read_pmd(pmd(version=version))
    np.testing.assert_allclose(mesh.positions, [(0, 0, 0), (-1, 0, 0), (0, 2, 0)])
    np.testing.assert_array_equal(mesh.faces, [(2, 1, 0)])  # seen from the same side as before
    np.testing.assert_allclose(mesh.normals, 3 * [(0, 0, 1)])
    np.testing.assert_allclose(mesh.uv, [(0, 0.5), (0.25, 0.5), (0.5, 0.5)])


def test_a_pose_moves_what_its_bone_holds():
    mesh = read_pmd(pmd(bones=[bone()], moved_by=0))
    # A quarter turn about y takes the file's (1, 0, 0) to (0, 0, -1), then up by 3.
    posed = mesh.posed(read_pose(psa(bone((0.0, 3.0, 0.0), QUARTER_ABOUT_Y))))
    np.testing.assert_allclose(posed.positions, [(0, 3, 0), (0, 3, -1), (0, 5, 0)], atol=1e-6)
    np.testing.assert_allclose(posed.normals, 3 * [(-1, 0, 0)], atol=1e-6)
    still = read_pmd(pmd(bones=[bone()])).posed(read_pose(psa(bone((9.0, 9.0, 9.0)))))
    np.testing.assert_allclose(still.positions, mesh.positions)  # no bone holds it
    assert mesh.posed(read_pose(psa(bone(), bone()))) is mesh  # another skeleton's


def test_a_point_moves_with_its_bone():
    mesh = read_pmd(pmd(bones=[bone()], attached=[("hand", bone((1.0, 0.0, 0.0)), 0)]))
    np.testing.assert_allclose(mesh.attachment("hand")[:3, 3], (-1, 0, 0))
    posed = mesh.posed(read_pose(psa(bone((0.0, 3.0, 0.0), QUARTER_ABOUT_Y))))
    np.testing.assert_allclose(posed.attachment("hand")[:3, 3], (0, 3, -1), atol=1e-6)
    assert mesh.attachment("foot") is None


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"PSMD", "not a PSMD file"),
        (b"glTF" + bytes(40), "not a PSMD file"),
        (pmd(version=2), "version 2"),
        (pmd()[:60], "cut off"),
        (pmd(faces=[(0, 1, 3)]), "a vertex that is not there"),
        (pmd(faces=[]), "no triangles"),
        (pmd(points=[(np.nan, 0.0, 0.0), *TRIANGLE[1:]]), "not finite"),
        (file_of(b"PSMD", 4, struct.pack("<II", 2**31, 1)), "2,147,483,648"),
        (file_of(b"PSMD", 4, struct.pack("<II", 3, 1000)), "1000 sets"),
    ],
)
def test_a_damaged_mesh_is_one_sentence(data, reason):
    with pytest.raises(BadMesh, match=reason):
        read_pmd(data)


def test_a_damaged_pose_is_one_sentence():
    with pytest.raises(BadMesh, match="cut off"):
        read_pose(psa(bone())[:-4] + b"")
    with pytest.raises(BadMesh, match="without frames"):
        read_pose(file_of(b"PSSA", 1, struct.pack("<I", 0) + struct.pack("<f2I", 33.3, 1, 0)))


MATERIALS = {
    "plain.xml": "<material/>",
    "player.xml": '<material><define name="USE_PLAYERCOLOR" value="1"/></material>',
    "object.xml": '<material><define name="USE_OBJECTCOLOR" value="1"/></material>',
    "leaves.xml": "<material><alpha_blending/></material>",
}


def actor(groups: str, material: str = "plain.xml") -> str:
    return f'<actor version="1">{groups}<material>{material}</material></actor>'


def variant(mesh="", texture="", more="", attributes='frequency="1"') -> str:
    mesh = f"<mesh>{mesh}</mesh>" if mesh else ""
    if texture:
        texture = f'<textures><texture file="{texture}" name="baseTex"/></textures>'
    return f"<variant {attributes}>{mesh}{texture}{more}</variant>"


def game(actors: dict[str, str], **more: str | bytes) -> dict[str, bytes]:
    """The files of an archive: some actors, a triangle, a skin."""
    files: dict[str, str | bytes] = {f"art/actors/{name}": text for name, text in actors.items()}
    files |= {f"art/materials/{name}": text for name, text in MATERIALS.items()}
    files["art/meshes/a.dae.cached.pmd"] = pmd(
        bones=[bone()], attached=[("head", bone((0.0, 2.0, 0.0)), 0)], moved_by=0
    )
    files["art/meshes/b.dae.cached.pmd"] = pmd([(5.0, 0.0, 0.0), *TRIANGLE[1:]])
    files["art/textures/skins/a.png.cached.dds"] = dds((200, 100, 50, 255))
    files["art/textures/skins/half.png.cached.dds"] = dds((200, 100, 50, 0))
    files |= more
    return {k: v.encode() if isinstance(v, str) else v for k, v in files.items()}


def read(files: dict[str, bytes], name: str, notes: list | None = None):
    def member(path: str) -> bytes:
        if path not in files:
            raise beside.NotThere(f"{path} is not there")
        return files[path]

    note = (lambda text: None) if notes is None else notes.append
    return zero_ad.read_actor(f"art/actors/{name}", member, note)


def group(*variants: str) -> str:
    return f"<group>{''.join(variants)}</group>"


def test_later_groups_come_before_earlier_ones():
    text = actor(group(variant("a.dae", "a.png")) + group(variant("b.dae")))
    (part,) = read(game({"units/x.xml": text}), "units/x.xml")
    assert part.positions[0].min() == -5.0  # mesh b, the texture of the first
    np.testing.assert_array_equal(part.texture[0, 0], (200, 100, 50, 255))


def test_a_variant_begins_with_its_file():
    files = game(
        {"units/x.xml": actor(group(variant(texture="half.png", attributes='file="v.xml"')))},
        **{"art/variants/v.xml": variant("a.dae", "a.png", attributes='frequency="3"')},
    )
    (part,) = read(files, "units/x.xml")
    assert part.positions.shape == (1, 3, 3)
    np.testing.assert_array_equal(part.texture[0, 0, :3], (200, 100, 50))


def test_what_never_comes_is_never_taken():
    never = variant("b.dae", attributes='frequency="0"')
    for number in range(20):
        text = actor(group(variant("a.dae", "a.png"), never))
        (part,) = read(game({f"units/{number}.xml": text}), f"units/{number}.xml")
        assert part.positions.min() == -1.0
    first = actor(group(variant("a.dae", "a.png", attributes=""), variant("b.dae", attributes="")))
    (part,) = read(game({"units/x.xml": first}), "units/x.xml")
    assert part.positions.min() == -1.0


def test_what_is_taken_by_chance_is_the_same_each_time_and_differs_by_name():
    text = actor(group(variant("a.dae", "a.png"), variant("b.dae", "a.png")))
    files = game({f"units/{k}.xml": text for k in range(40)})
    first, again = ([read(files, f"units/{k}.xml")[0].positions.min() for k in range(40)]
                    for _ in range(2))  # fmt: skip
    assert first == again
    assert 8 <= first.count(-5.0) <= 32


def test_other_actors_are_attached_where_the_pose_has_their_point():
    props = '<props><prop actor="props/hat.xml" attachpoint="head"/></props>'
    idle = '<animations><animation name="Idle" file="i.dae"/></animations>'
    files = game(
        {
            "units/x.xml": actor(group(variant("a.dae", "a.png", props + idle))),
            "props/hat.xml": actor(group(variant("a.dae", "a.png"))),
        },
        **{"art/animation/i.dae.cached.psa": psa(bone((0.0, 10.0, 0.0)))},
    )
    body, hat = read(files, "units/x.xml")
    np.testing.assert_allclose(body.positions[0][:, 1].max(), 12.0)
    np.testing.assert_allclose(hat.positions[0][:, 1].min(), 12.0)  # 10 and its place, 2
    np.testing.assert_allclose(hat.positions[0][:, 1].max(), 14.0)


def test_a_later_prop_takes_the_place_of_an_earlier_one_and_nothing_takes_it_away():
    def prop(name):
        return f'<props><prop actor="{name}" attachpoint="head"/></props>'

    files = {"props/hat.xml": actor(group(variant("a.dae", "a.png")))}
    both = group(variant("a.dae", "a.png", prop("props/hat.xml")))
    for later, expected in (("props/hat.xml", 2), ("", 1)):
        text = actor(both + group(variant(more=prop(later))))
        assert len(read(game(files | {"units/x.xml": text}), "units/x.xml")) == expected


def test_what_a_material_makes_of_alpha():
    def texel(material, more=""):
        text = actor(group(variant("a.dae", "half.png", more)), material)
        (part,) = read(game({"units/x.xml": text}), "units/x.xml")
        return part.texture[0, 0], part.alpha

    np.testing.assert_array_equal(texel("plain.xml")[0], (200, 100, 50, 255))
    colour, alpha = texel("object.xml", "<color>255 0 51</color>")
    np.testing.assert_array_equal(colour, (200, 0, 10, 255))
    assert alpha == "opaque"
    colour, _ = texel("player.xml")
    players = [np.round(np.array((200, 100, 50)) * np.array(p) / 255) for p in zero_ad._PLAYERS]
    assert any((colour[:3] == player).all() for player in players)
    colour, alpha = texel("leaves.xml")
    assert colour[3] == 0 and alpha == "mask"


def test_the_finest_of_several_levels_is_taken():
    own = actor(group(variant("b.dae", "a.png")))
    text = f'<qualitylevels><actor quality="low"/>{own}</qualitylevels>'
    (part,) = read(game({"units/x.xml": text}), "units/x.xml")
    assert part.positions.min() == -5.0
    common = own.replace("actor", "inline")
    text = f'<qualitylevels><actor quality="low"/><actor inline=""/>{common}</qualitylevels>'
    (part,) = read(game({"units/x.xml": text}), "units/x.xml")
    assert part.positions.min() == -5.0
    with pytest.raises(BadMesh, match="has no actor"):
        read(game({"units/x.xml": "<qualitylevels/>"}), "units/x.xml")


def test_what_is_missing_of_a_thing_is_noted_and_the_thing_is_drawn():
    props = '<props><prop actor="props/gone.xml" attachpoint="head"/></props>'
    text = actor(group(variant("a.dae", "gone.png", props)))
    notes: list[str] = []
    (part,) = read(game({"units/x.xml": text}), "units/x.xml", notes)
    assert part.texture is None
    assert len(notes) == 2 and "gone.png" in notes[0] and "props/gone.xml" in notes[1]


def test_a_thing_without_a_mesh_and_xml_of_strangers_are_refused():
    with pytest.raises(BadMesh, match="without a mesh"):
        read(game({"units/x.xml": actor(group(variant()))}), "units/x.xml")
    with pytest.raises(BadMesh, match="is not XML"):
        read(game({"units/x.xml": "<actor>"}), "units/x.xml")
    bomb = '<!DOCTYPE a [<!ENTITY b "bb">]><actor/>'
    with pytest.raises(BadMesh, match="not the XML of an actor"):
        read(game({"units/x.xml": bomb}), "units/x.xml")
    own = '<props><prop actor="units/x.xml" attachpoint="root"/></props>'
    text = actor(group(variant("a.dae", "a.png", own)))
    assert len(read(game({"units/x.xml": text}), "units/x.xml")) < 20  # an actor on itself ends


def test_the_archive_is_a_place_of_assets(tmp_path):
    path = tmp_path / "public.zip"
    actors = {
        "units/one.xml": actor(group(variant("a.dae", "a.png"))),
        "units/two.xml": actor(group(variant("a.dae", "half.png"))),
        "structures/fndn_2x2.xml": actor(group(variant("b.dae", "a.png"))),
        "particle/smoke.xml": actor(group(variant())),
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in game(actors).items():
            archive.writestr(name, data)
    one, two = asset_sources.find_assets([str(path)])
    assert [one.name, two.name] == ["0ad-units_one", "0ad-units_two"]
    assert (one.license, one.creator, one.category) == ("CC-BY-SA-3.0", "Wildfire Games", "units")
    assert one.design == two.design  # of one mesh: they are in the same split
    (part,) = asset_sources.load_asset(one)
    points = part.positions.reshape(-1, 3)
    assert np.linalg.norm(points, axis=-1).max() == pytest.approx(1.0)
    # The file's (1, 0, 0) to (0, 2, 0): up is z; what was +x lies at -y of our world.
    np.testing.assert_allclose(np.ptp(points, 0) * 2.0 / np.ptp(points[:, 2]), (0, 1, 2), atol=1e-6)


def test_an_archive_is_listed_once_for_all_its_objects_and_again_when_it_changed(
    tmp_path, monkeypatch
):
    path = tmp_path / "public.zip"

    def write(mesh):
        actors = {f"units/{k}.xml": actor(group(variant(mesh, "a.png"))) for k in range(3)}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in game(actors).items():
                archive.writestr(name, data)

    write("a.dae")
    assets, opened = asset_sources.find_assets([str(path)]), []
    true = zipfile.ZipFile

    class Counted(true):
        def __init__(self, *args, **kwargs):
            opened.append(args[0])
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(asset_sources.zipfile, "ZipFile", Counted)
    first = [asset_sources.load_asset(asset)[0].positions for asset in assets]
    assert len(opened) == 1
    monkeypatch.setattr(asset_sources.zipfile, "ZipFile", true)
    write("b.dae")
    assert not np.allclose(asset_sources.load_asset(assets[0])[0].positions, first[0])


def test_another_zip_is_one_sentence(tmp_path):
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("chair.obj", "v 0 0 0")
    with pytest.raises(UserError, match="without art/actors/"):
        asset_sources.find_assets([str(path)])
    path.write_bytes(b"PK\3\4nothing")
    with pytest.raises(UserError, match="cannot be read as a zip"):
        asset_sources.find_assets([str(path)])
