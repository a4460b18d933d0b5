# The small model from the assets to its scores; docs/training.md has the time and the expected
# number of each step. From the project's root:
#
#     make -j2 weights                 two steps at a time where they do not need each other
#     make weights ASSETS=other.sh3f ZERO_AD=other.zip   of other meshes
#
# A killed run goes on with the same command. How long each step took stands in runs/times.txt.

# Of the Debian packages sweethome3d-furniture and 0ad-data.
ASSETS ?= /usr/share/sweethome3d/furniture
ZERO_AD ?= /usr/share/games/0ad/mods/public/public.zip
MODEL ?= models/tiny
PROCEDURAL ?= 5200
TRAIN_FLAGS ?=
EVALUATE_FLAGS ?=
DONE := runs/finished
FURNITURE := data/furniture64
GAME := data/zero_ad64
SETS := stretch1 stretch2 warp3 warp4 procedural zero_ad64 zero_ad_stretch
LATENTS_DATA := $(FURNITURE),data/stretch1,data/stretch2,data/warp3,data/warp4
# Of all rows that the tower sees, two in five are of furniture and as many of the game.
TOWER_DATA := $(LATENTS_DATA),data/procedural,$(GAME),data/zero_ad_stretch
TOWER_WEIGHTS := '(.08,.08,.08,.08,.08,.16,.22,.22)'
COMMA := ,
PYTHON_M := $(BIN)/python -m iso3d_jax.
TRAIN = $(PYTHON_M)train --workdir runs/$(notdir $@) $(TRAIN_FLAGS)

# $(call step,COMMAND): runs it, notes how long it took, and marks it finished.
define step
	@mkdir -p $(DONE)
	@begun=$$(date +%s); echo "$(notdir $@): $(1)"; $(1) && \
	  echo "$(notdir $@) $$(($$(date +%s) - begun)) s" >> runs/times.txt && touch $@
endef

.PHONY: weights
weights: $(DONE)/evaluate

$(DONE)/furniture64: | $(VENV)/.installed-test
	$(call step,$(PYTHON_M)data.render --assets $(ASSETS) --out $(FURNITURE))

# Props of the game's buildings that are crumbs strewn over a yard are no objects.
WHOLE := --filters shape,coverage,pieces
# The same meshes with other proportions, and objects made by rules, are further objects.
$(DONE)/stretch1: VARIED := --assets $(ASSETS) --stretch 0.4 --seed 1
$(DONE)/stretch2: VARIED := --assets $(ASSETS) --stretch 0.4 --seed 2
$(DONE)/warp3: VARIED := --assets $(ASSETS) --stretch 0.3 --warp 0.5 --seed 3
$(DONE)/warp4: VARIED := --assets $(ASSETS) --stretch 0.3 --warp 0.5 --seed 4
$(DONE)/procedural: VARIED := --assets procedural:$(PROCEDURAL)
$(DONE)/zero_ad64: VARIED := --assets $(ZERO_AD) $(WHOLE)
$(DONE)/zero_ad_stretch: VARIED := --assets $(ZERO_AD) $(WHOLE) --stretch 0.3 --seed 5
$(addprefix $(DONE)/,$(SETS)): $(DONE)/furniture64
	$(call step,$(PYTHON_M)data.render $(VARIED) --workers 1 --out data/$(notdir $@))

# The autoencoder on one core (NPROC=1), which suits its convolutions, while the other renders.
$(DONE)/autoencoder: $(DONE)/furniture64 $(DONE)/zero_ad64
	$(call step,NPROC=1 $(TRAIN) --config configs/autoencoder.py \
	  --config.data=$(FURNITURE)$(COMMA)$(GAME))

$(DONE)/image_tower: $(addprefix $(DONE)/,$(SETS))
	$(call step,$(TRAIN) --config configs/image_tower.py \
	  --config.data=$(TOWER_DATA) --config.data_weights=$(TOWER_WEIGHTS))

# Latents and embeddings are made in each step: a run reads a seventh of what the sets hold.
$(DONE)/stage1: $(DONE)/autoencoder $(DONE)/image_tower
	$(call step,$(TRAIN) --config configs/stage1.py:furniture)

$(DONE)/stage2: $(DONE)/stage1
	$(call step,$(TRAIN) --config configs/stage2.py:furniture)

$(DONE)/tiny: $(DONE)/stage2
	$(call step,$(TRAIN) --config configs/decoder.py \
	  --config.init_from=runs/stage2 --config.data=$(LATENTS_DATA)$(COMMA)$(GAME))

$(DONE)/compact: $(DONE)/tiny
	$(call step,$(PYTHON_M)convert --from runs/tiny --to compact --out $(MODEL))

$(DONE)/evaluate: $(DONE)/compact
	$(call step,$(PYTHON_M)evaluate --model $(MODEL) --data $(FURNITURE) --prepare framed \
	  --out out/evaluation $(EVALUATE_FLAGS) && $(PYTHON_M)evaluate --model $(MODEL) --data $(GAME) \
	  --prepare framed --out out/evaluation_game $(EVALUATE_FLAGS))
