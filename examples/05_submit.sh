#!/usr/bin/env bash
# Lesson 5: the jar alone trains. No code is written: a layer list, the data of lesson 1, and one spark-submit.
#
#     ./05_submit.sh kindling.jar
set -euo pipefail
jar=${1:?usage: 05_submit.sh kindling.jar}
tmp=${TMPDIR:-/tmp}

cat >"$tmp/kindling-digits.json" <<'JSON'
{"layers": [{"type": "dense", "units": 128, "activation": "relu"}, {"type": "dense", "units": 10}]}
JSON

# Two executors on this machine. On a cluster (--master yarn or k8s://…) data, network and output lie where every machine
# sees them (hdfs://, s3a://), and executors need libtorch and memory outside the heap: see docs/install.md.
spark-submit --master 'local-cluster[2,1,1024]' --class kindling.Train "$jar" \
    --data "file://$tmp/kindling-digits.parquet" --model "file://$tmp/kindling-digits.json" --validation-col heldOut \
    --epochs 10 --learning-rate 3e-3 --num-workers 2 --output "file://$tmp/kindling-digits.model" --overwrite
