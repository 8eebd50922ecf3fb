#!/usr/bin/env bash
# Everything that the parties type, in one folder and one shell for reading. In life each party has its own
# machine, and only what does not end in .csv, .key or .store ever leaves it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${1:-$(mktemp -d)}
mkdir -p "$work"
cd "$work"
python "$here/split_data.py" .
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

# The researcher makes keys and an image; every hospital makes keys and seals its records.
myelin keygen researcher
myelin build "$here/job.py" -o hospitals.myelin
myelin inspect hospitals.myelin
for name in north south west; do
  myelin keygen $name
  myelin seal $name.csv --schema "$here/schema.toml" --owner $name.key --epsilon 4 --delta 1e-5 -o $name.sealed
done

# They agree. Look before you sign.
cp "$here/contract.toml" .
myelin contract new contract.toml -o hospitals.contract
myelin contract show hospitals.contract
for name in north south west researcher; do
  myelin contract sign hospitals.contract --key $name.key
done
myelin contract verify hospitals.contract

# Every hospital runs its broker; the host trains.
for name in north south west; do
  myelin broker run --owner $name.key --contract hospitals.contract --socket $name.sock \
    --insecure-accept-simulated-evidence &
done
for name in north south west; do
  until [ -S $name.sock ]; do sleep 0.1; done
done
myelin train hospitals.contract --image hospitals.myelin -o released \
  --broker north=north.sock --data north=north.sealed \
  --broker south=south.sock --data south=south.sealed \
  --broker west=west.sock --data west=west.sealed

# Anyone checks; the researcher opens; every hospital sees what it spent.
myelin verify released/certificate.cbor --contract hospitals.contract --allow-simulated
myelin open released/model-researcher.sealed --key researcher.key \
  --certificate released/certificate.cbor --contract hospitals.contract --allow-simulated -o model.safetensors
for name in north south west; do
  myelin ledger show --owner $name.key
done
python "$here/evaluate.py" model.safetensors test.csv
