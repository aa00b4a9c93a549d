# make demo   installs packages; trains, evaluates and applies a tagger on synthetic clips
# make test   installs packages and runs the tests
# make test-matrix  runs the tests with several versions of Python and TensorFlow
# make bench  installs packages and runs the benchmarks of this program and others
# make bench-more  benchmarks options, the Kaggle kernel, several workers, and a data service
# make lint   checks the style of the code
# make notebooks  makes the notebooks from their scripts
# make lock   updates requirements-lock.txt, the versions that .ci/run installs
# make clean  removes .venv, .matrix and demo

PYTHON ?= python3
VENV ?= .venv
DEMO = demo
RUN = $(VENV)/bin/python

.PHONY: demo test test-matrix bench bench-more lint notebooks lock clean
.DEFAULT_GOAL := demo

$(VENV)/.run: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	    echo "Python 3.11 to 3.13 is needed, but $(PYTHON) is $$($(PYTHON) --version);" \
	    "use make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --requirement requirements.txt
	touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	$(RUN) -m pip install --quiet --requirement requirements-dev.txt
	touch $@

demo: $(VENV)/.run
	rm -rf $(DEMO)
	$(RUN) -m tools.make_demo_data $(DEMO)
	$(RUN) make_class_map.py < $(DEMO)/train_curated.csv > $(DEMO)/class_map.csv
	$(RUN) -m tools.make_validation_split $(DEMO)/train_curated.csv --out_dir $(DEMO) \
	    --fraction 0.2
	$(RUN) runner.py --mode train \
	    --class_map_path $(DEMO)/class_map.csv \
	    --train_clip_dir $(DEMO)/train_curated \
	    --train_csv_path $(DEMO)/train_curated_train.csv \
	    --train_dir $(DEMO)/train_dir \
	    --hparams batch_size=16,lr=1e-3,bndecay=0.9 \
	    --max_steps 120 --checkpoint_steps 40 --seed 1
	$(RUN) runner.py --mode eval \
	    --class_map_path $(DEMO)/class_map.csv \
	    --eval_clip_dir $(DEMO)/train_curated \
	    --eval_csv_path $(DEMO)/train_curated_validation.csv \
	    --train_dir $(DEMO)/train_dir \
	    --eval_dir $(DEMO)/eval_dir \
	    --eval_timeout_secs 0
	$(RUN) runner.py --mode inference \
	    --class_map_path $(DEMO)/class_map.csv \
	    --inference_clip_dir $(DEMO)/test \
	    --inference_checkpoint $(DEMO)/train_dir \
	    --predictions_csv_path $(DEMO)/submission.csv
	@tail -n 1 $(DEMO)/eval_dir/eval-120.txt
	@echo "Submission: $(DEMO)/submission.csv"

# In two processes; all tests of a file run in the same one.
test: $(VENV)/.dev
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-matrix:
	tests/matrix.sh

$(VENV)/.bench: requirements-bench.txt $(VENV)/.run
	$(RUN) -m pip install --quiet --requirement requirements-bench.txt
	touch $@

bench: $(VENV)/.bench
	$(RUN) benchmarks/train_step.py
	$(RUN) benchmarks/inference_batch.py
	$(RUN) benchmarks/where_time_goes.py
	$(RUN) benchmarks/where_time_goes.py --bfloat16
	$(RUN) benchmarks/epoch_border.py
	$(RUN) benchmarks/features.py
	$(RUN) benchmarks/whole_process.py
	$(RUN) benchmarks/growth.py

bench-more: $(VENV)/.bench
	$(RUN) benchmarks/options_step.py
	$(RUN) benchmarks/width.py
	$(RUN) benchmarks/data_service.py
	$(RUN) benchmarks/exchange.py
	$(RUN) benchmarks/kaggle_kernel.py --clips 300

lint: $(VENV)/.dev
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .

notebooks: kaggle/kernel.ipynb $(patsubst %.py,%.ipynb,$(wildcard notebooks/*.py))

KERNELSPEC = {"name": "python3", "display_name": "Python 3", "language": "python"}
%.ipynb: %.py $(VENV)/.dev
	$(VENV)/bin/jupytext --to ipynb --update --update-metadata '{"kernelspec": $(KERNELSPEC)}' \
	    --output $@ $<

lock: $(VENV)/.dev
	$(RUN) -m pip install --quiet uv
	$(VENV)/bin/uv pip compile --universal --python-version 3.11 --upgrade --quiet \
	    --no-annotate --custom-compile-command "make $@" \
	    --output-file requirements-lock.txt requirements-dev.txt

clean:
	rm -rf $(VENV) .matrix $(DEMO)
