import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { build, defineConfig, type Plugin } from "vite";
import { version } from "./package.json";

// The server that `npm run dev` forwards requests to: by default that of `cargo run`.
const server = process.env["PARLOUR_URL"] ?? "http://127.0.0.1:8008";
const SERVICE_WORKER_SOURCE = "src/serviceWorker/serviceWorker.ts";
const SERVICE_WORKER_FILE = "service-worker.js";
/** The syntax that the browsers must know. */
const BROWSER_TARGET = "es2022";

const proxy = { "/_matrix": { target: server, ws: true }, "/_parlour": { target: server } };

export default defineConfig({
  define: { __VERSION__: JSON.stringify(version) },
  // src/api/web.rs puts a new nonce here for each response; the Content-Security-Policy runs nothing without it.
  html: { cspNonce: "__CSP_NONCE__" },
  // build.rs embeds the output, and src/api/web.rs serves it at `/`, `/assets/` and `/service-worker.js`.
  build: {
    target: BROWSER_TARGET,
    // Everything that is loaded is a file: the Content-Security-Policy forbids inline content.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  plugins: [serviceWorker(), compressed()],
  server: { proxy },
  preview: { proxy },
});

/** Writes a compressed copy of each text file, for the server to send. */
function compressed(): Plugin {
  let folder = "dist";
  return {
    name: "parlour-compressed",
    apply: "build",
    configResolved: (config) => {
      folder = config.build.outDir;
    },
    closeBundle: async () => {
      for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
        if (!entry.isFile() || !/\.(js|css|html|svg|json|webmanifest)$/.test(entry.name)) continue;
        const file = join(entry.parentPath, entry.name);
        await writeFile(`${file}.gz`, gzipSync(await readFile(file), { level: 9 }));
      }
    },
  };
}

/** Builds the service worker as one file at the root: its address must never change. */
function serviceWorker(): Plugin {
  return {
    name: "parlour-service-worker",
    async generateBundle() {
      this.emitFile({ type: "asset", fileName: SERVICE_WORKER_FILE, source: await buildServiceWorker() });
    },
    configureServer: (devServer) => {
      devServer.middlewares.use(`/${SERVICE_WORKER_FILE}`, (_, response, next) => {
        response.setHeader("Content-Type", "text/javascript");
        buildServiceWorker().then((source) => response.end(source), next);
      });
    },
  };
}

async function buildServiceWorker(): Promise<string> {
  const output = { format: "iife", entryFileNames: SERVICE_WORKER_FILE } as const;
  const built = await build({
    configFile: false,
    publicDir: false,
    logLevel: "warn",
    build: { write: false, target: BROWSER_TARGET, rolldownOptions: { input: join(import.meta.dirname, SERVICE_WORKER_SOURCE), output } },
  });
  const [file] = "output" in built ? built.output : [];
  if (file?.type !== "chunk") throw new Error("the service worker was not built");
  return file.code;
}
