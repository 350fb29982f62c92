import { expect, test } from "vitest";
import { withSafeType } from "./media.ts";

const typeOf = (type: string) => withSafeType(new Blob(["file"], { type })).type;

test("pictures, videos and sounds keep their types", () => {
  expect(typeOf("image/png")).toBe("image/png");
  expect(typeOf("Image/JPEG; a=b")).toBe("image/jpeg");
  expect(typeOf("video/mp4")).toBe("video/mp4");
  expect(typeOf("audio/ogg")).toBe("audio/ogg");
});

test("possible documents and programs become plain bytes", () => {
  for (const type of [
    "image/svg+xml",
    "text/html",
    "application/xhtml+xml",
    "text/xml",
    "application/pdf",
    "text/javascript",
    "image/svg+xml;a=image/png",
    "",
  ]) {
    expect(typeOf(type), type).toBe("application/octet-stream");
  }
});

test("the bytes stay the same", async () => {
  expect(await withSafeType(new Blob(["<svg/>"], { type: "image/svg+xml" })).text()).toBe("<svg/>");
});
