import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { defineConfig, type Plugin } from "vite";
import { version } from "./package.json";

// The server that `npm run dev` forwards requests to: by default that of `cargo run`.
const server = process.env["PARLOUR_URL"] ?? "http://127.0.0.1:8008";
const proxy = { "/_matrix": { target: server, ws: true }, "/_parlour": { target: server } };

export default defineConfig({
  define: { __VERSION__: JSON.stringify(version) },
  // src/api/web.rs puts a new nonce here for each response; the Content-Security-Policy runs nothing without it.
  html: { cspNonce: "__CSP_NONCE__" },
  // build.rs embeds the output, and src/api/web.rs serves it at `/` and `/assets/`.
  build: {
    target: "es2022",
    // Everything that is loaded is a file: the Content-Security-Policy forbids inline content.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  plugins: [compressed()],
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
