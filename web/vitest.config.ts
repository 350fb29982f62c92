import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    projects: [
      { test: { name: "unit", include: ["src/**/*.test.ts"], environment: "node" } },
      {
        test: {
          name: "browser",
          include: ["tests/**/*.test.ts"],
          environment: "node",
          // Each file starts a server and a browser of its own, which are heavy.
          fileParallelism: false,
          testTimeout: 60_000,
          hookTimeout: 60_000,
          // The default of one second is too short while other programs use the processor.
          expect: { poll: { timeout: 15_000 } },
        },
      },
    ],
  },
});
