#!/usr/bin/env bash
# Install the peers that `make bench-curation` measures beside us, each in a virtual environment of its own below .peers/
# (their requirements exclude each other). Usage: benchmarks/peers/setup.sh [NAME...]; without names, all of them.
# A peer that cannot be installed is named at the end and left out of the table.
set -u
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3.11}

requirements() {
    case $1 in
        # the word tokenizers that it assigns to the languages of the corpus, without those of its other languages
        datatrove) echo "datatrove[io,processing]==0.10.1 spacy faust-cchardet python-magic warcio lxml_html_clean
            pythainlp==5.4.0 laonlp==1.3.0 khmer-nltk==1.6 pyidaungsu-numpy2==0.1.4 jieba==0.42.1 pyvi==0.1.1" ;;
        sketches) echo "datasketch==2.0.0 rensa==0.5.0 numpy pyarrow scipy" ;;
        # its s3fs of 2023 sends pip through every boto3 there ever was, and reading local files needs neither
        dolma) echo "--no-deps dolma==1.2.1 && anyascii blingfire==0.1.8 fasttext-wheel==0.9.2 fsspec jsonpath-ng jq msgspec nltk
            omegaconf platformdirs pyyaml python-dotenv requests rich smart-open tokenizers==0.19.1 tqdm uniseg numpy<2 necessary
            charset-normalizer zstandard pyarrow<20 boto3" ;;
        text-dedup) echo "text-dedup==0.4.1" ;;
        lid) echo "pycld2==0.42 heliport==1.0.1 pyarrow" ;;
        nemo) echo "nemo-curator==1.4.0 torch==2.13.0 pyarrow" ;;
        *) return 1 ;;
    esac
}

failed=()
for name in "${@:-datatrove sketches dolma text-dedup nemo lid}"; do
    for peer in $name; do
        wanted=$(requirements "$peer") || { echo "no peer $peer: take datatrove, sketches, dolma, text-dedup, nemo or lid"; exit 2; }
        python=$PYTHON
        [ "$peer" = text-dedup ] && python=${PYTHON312:-python3.12} # it asks for this version
        # shellcheck disable=SC2086
        pip=".peers/$peer/bin/pip install --quiet --disable-pip-version-check"
        if "$python" -m venv ".peers/$peer" && $pip ${wanted%%&&*} && { [[ $wanted != *"&&"* ]] || $pip ${wanted#*&&}; }; then
            touch ".peers/$peer/.installed"
            echo "$peer: $wanted"
        else
            failed+=("$peer")
        fi
    done
done
[ ${#failed[@]} -eq 0 ] || echo "not installed: ${failed[*]}"
