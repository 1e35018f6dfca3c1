// Runs exported ONNX folders with transformers.js, offline: called by benchmarks/transformers_js.py.
// node transformers_js.mjs REQUEST.json: {modules, folder, task, texts, pooling, files}; the answer is JSON on stdout.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

const request = JSON.parse(readFileSync(process.argv[2], "utf8"));
const require = createRequire(join(request.modules, "x.js"));
const { env, pipeline } = await import(pathToFileURL(require.resolve("@huggingface/transformers")).href);
env.allowRemoteModels = false;
env.localModelPath = dirname(request.folder) + "/";

const answer = { node: process.version, version: env.version };
for (const file of request.files) {
  const options = { dtype: "fp32", model_file_name: file };
  const run = await pipeline(request.task, basename(request.folder), options);
  answer[file] =
    request.task === "fill-mask"
      ? await run(request.texts, { top_k: 5 })
      : (await run(request.texts, { pooling: request.pooling, normalize: true })).tolist();
}
console.log(JSON.stringify(answer));
