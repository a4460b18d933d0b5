"""The kinds of procedural objects: in metres, Z up, front towards +x, left and right along y."""

from iso3d_jax.tiny.procedural import creatures, indoor, things

KINDS = {  # name: (rule, weight)
    "chair": (indoor.chair, 16), "stool": (indoor.stool, 4), "table": (indoor.table, 11),
    "cabinet": (indoor.cabinet, 9), "shelf": (indoor.shelf, 6), "sofa": (indoor.sofa, 8),
    "bed": (indoor.bed, 5), "lamp": (things.lamp, 8), "plant": (things.plant, 8),
    "vessel": (things.vessel, 8), "appliance": (things.appliance, 7),
    "screen": (things.screen, 4), "container": (things.container, 5),
    "bathroom": (things.bathroom, 4), "parasol": (things.parasol, 2),
    "person": (creatures.person, 6), "animal": (creatures.animal, 4),
    "vehicle": (creatures.vehicle, 5), "cycle": (creatures.cycle, 3), "heap": (things.heap, 8),
}  # fmt: skip
