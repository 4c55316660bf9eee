// Counts values, like servers/server.go; a worker thread computes the digest.
const fs = require("node:fs");
const http = require("node:http");
const { Worker, isMainThread, parentPort } = require("node:worker_threads");

if (isMainThread) {
  const values = [];
  const waiting = [];
  const worker = new Worker(__filename);
  worker.on("message", (digest) => waiting.shift()(digest));
  let connections = 0;
  const server = http.createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    if (request.method === "PUT") {
      values.push(body);
      await fs.promises.appendFile("/data/journal", body + "\n");
    }
    const digest = await new Promise((done) => {
      waiting.push(done);
      worker.postMessage(values);
    });
    const text = `connection ${request.socket.number} values ${values.length} ${digest}`;
    response.writeHead(200, { "Content-Length": text.length });
    response.end(text);
  });
  server.on("connection", (socket) => (socket.number = ++connections));
  server.keepAliveTimeout = server.requestTimeout = 0;
  server.listen(8080);
} else {
  const { createHash } = require("node:crypto");
  parentPort.on("message", (values) => parentPort.postMessage(createHash("sha256").update(values.join("\n")).digest("hex")));
}
