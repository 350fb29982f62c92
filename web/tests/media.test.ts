import { beforeAll, expect, test } from "vitest";
import { testEnvironment } from "./harness.ts";
import { messageField, messageLog, messagesWith, openRoomOfTwo, type RoomOfTwo } from "./roomHelpers.ts";

const env = testEnvironment({ PARLOUR__MEDIA__MAX_UPLOAD_BYTES: "2000000" });
let { alice, bob, tokens, room } = {} as RoomOfTwo;

beforeAll(async () => {
  ({ alice, bob, tokens, room } = await openRoomOfTwo(env));
});

/** Draws a picture in a browser. */
async function drawPicture(width: number, height: number): Promise<Buffer> {
  const bytes = await alice.page.evaluate(
    async ([width, height]) => {
      const canvas = document.createElement("canvas");
      canvas.width = width!;
      canvas.height = height!;
      const context = canvas.getContext("2d")!;
      const gradient = context.createLinearGradient(0, 0, width!, height!);
      gradient.addColorStop(0, "teal");
      gradient.addColorStop(1, "orange");
      context.fillStyle = gradient;
      context.fillRect(0, 0, width!, height!);
      const blob = await new Promise<Blob>((done) => canvas.toBlob((blob) => done(blob!), "image/png"));
      return [...new Uint8Array(await blob.arrayBuffer())];
    },
    [width, height],
  );
  return Buffer.from(bytes);
}

/** Gives a file to the field by paste or by drag and drop. */
async function giveFile(how: "paste" | "drop", name: string, type: string, content: Buffer): Promise<void> {
  const transfer = await alice.page.evaluateHandle(
    ([name, type, content]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([new Uint8Array(content as number[])], name as string, { type: type as string }));
      return transfer;
    },
    [name, type, [...content]] as const,
  );
  if (how === "paste") {
    await messageField(alice.page).evaluate(
      (element, clipboardData) => element.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true })),
      transfer,
    );
  } else {
    for (const event of ["dragenter", "dragover", "drop"]) await messageLog(alice.page).dispatchEvent(event, { dataTransfer: transfer });
  }
}

test("a picture is chosen, previewed, captioned and sent with its size", async () => {
  await alice.page.getByLabel("Files to attach").setInputFiles({ name: "sunset.png", mimeType: "image/png", buffer: await drawPicture(400, 200) });
  const waiting = alice.page.getByRole("list", { name: "Files to send" });
  await waiting.getByText("sunset.png").waitFor();
  await messageField(alice.page).fill("Look at *this*");
  await messageField(alice.page).press("Enter");

  const shown = messagesWith(bob.page, "Look at this");
  const button = shown.getByRole("button", { name: "Open picture sunset.png" });
  await button.getByRole("img").waitFor();
  expect(await room.newestContent(tokens.alice)).toMatchObject({
    msgtype: "m.image",
    filename: "sunset.png",
    body: "Look at *this*",
    formatted_body: "Look at <em>this</em>",
    info: { w: 400, h: 200, mimetype: "image/png" },
  });
  const box = (await button.boundingBox())!;
  expect(box.width / box.height).toBeCloseTo(2, 1);
  await waiting.waitFor({ state: "detached" });
  expect(await messageField(alice.page).inputValue()).toBe("");
});

test("a picture opens over the page, and Escape closes it", async () => {
  await bob.page.getByRole("button", { name: "Open picture sunset.png" }).click();
  const dialog = bob.page.getByRole("dialog", { name: "sunset.png" });
  await expect.poll(async () => dialog.getByRole("img").evaluate((image: HTMLImageElement) => image.naturalWidth)).toBe(400);
  const download = bob.page.waitForEvent("download");
  await dialog.getByRole("button", { name: "Download" }).click();
  expect((await download).suggestedFilename()).toBe("sunset.png");
  await bob.page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
});

test("a big picture is sent with a thumbnail", async () => {
  // Noise does not compress, so the file is large.
  const noise = await alice.page.evaluate(async () => {
    const canvas = new OffscreenCanvas(1000, 700);
    const context = canvas.getContext("2d")!;
    const image = context.createImageData(1000, 700);
    for (let at = 0; at < image.data.length; at += 1) image.data[at] = at % 4 === 3 ? 255 : Math.random() * 256;
    context.putImageData(image, 0, 0);
    const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.8 });
    return new Promise<string>((done) => {
      const reader = new FileReader();
      reader.onload = () => done((reader.result as string).split(",")[1]!);
      reader.readAsDataURL(blob);
    });
  });
  await alice.page.getByLabel("Files to attach").setInputFiles({ name: "noise.jpg", mimeType: "image/jpeg", buffer: Buffer.from(noise, "base64") });
  await alice.page.getByRole("button", { name: "Send" }).click();
  await messagesWith(bob.page, "").getByRole("button", { name: "Open picture noise.jpg" }).waitFor();
  expect(await room.newestContent(tokens.alice)).toMatchObject({
    info: { w: 1000, h: 700, thumbnail_url: expect.stringMatching(/^mxc:/), thumbnail_info: { w: 800, h: 560 } },
  });
});

test("a pasted picture waits to be sent and can be removed", async () => {
  await giveFile("paste", "pasted.png", "image/png", await drawPicture(50, 50));
  const waiting = alice.page.getByRole("list", { name: "Files to send" });
  await waiting.getByText("pasted.png").waitFor();
  await waiting.getByRole("button", { name: "Remove pasted.png" }).click();
  await waiting.waitFor({ state: "detached" });
});

test("files are offered for download by name and size", async () => {
  await giveFile("drop", "notes.txt", "text/plain", Buffer.from("hello file"));
  await alice.page.getByRole("button", { name: "Send" }).click();
  const button = messageLog(bob.page).getByRole("button", { name: "Download notes.txt" });
  await button.getByText("10 bytes").waitFor();
  const download = bob.page.waitForEvent("download");
  await button.click();
  expect((await download).suggestedFilename()).toBe("notes.txt");
});

test("an upload shows its progress and can be cancelled", async () => {
  await alice.page.route("**/_matrix/media/v3/upload**", async () => new Promise(() => {}));
  await giveFile("drop", "slow.txt", "text/plain", Buffer.from("slow"));
  await alice.page.getByRole("button", { name: "Send" }).click();
  await alice.page.getByRole("progressbar", { name: "Uploading slow.txt" }).waitFor();
  await alice.page.getByRole("button", { name: "Cancel slow.txt" }).click();
  await alice.page.getByRole("list", { name: "Files to send" }).waitFor({ state: "detached" });
  await alice.page.unroute("**/_matrix/media/v3/upload**");
  expect(await messageLog(bob.page).getByText("slow.txt").count()).toBe(0);
});

test("a file that is too big for the server is refused with the limit", async () => {
  await alice.page.getByLabel("Files to attach").setInputFiles({ name: "big.bin", mimeType: "application/octet-stream", buffer: Buffer.alloc(3_000_000) });
  await alice.page.getByRole("button", { name: "Send" }).click();
  await alice.page.getByText("This file is 3 MB. The server accepts files of up to 2 MB.").waitFor();
});

test("there were no console errors", () => {
  expect(alice.consoleErrors).toEqual([]);
  expect(bob.consoleErrors).toEqual([]);
});

test("an SVG picture with a script never runs it", async () => {
  const program = `<svg xmlns="http://www.w3.org/2000/svg"><script>localStorage.setItem("stolen", "yes")</script></svg>`;
  const upload = await fetch(`${env.server.url}/_matrix/media/v3/upload`, {
    method: "POST",
    headers: { Authorization: `Bearer ${tokens.alice}`, "Content-Type": "image/svg+xml" },
    body: program,
  });
  const { content_uri: url } = (await upload.json()) as { content_uri: string };
  await env.request(tokens.alice, "PUT", `${room.path}/send/m.room.message/svg`, {
    msgtype: "m.image",
    body: "program.svg",
    url,
    info: { w: 100, h: 100, mimetype: "image/svg+xml" },
  });

  await bob.page.getByRole("button", { name: "Open picture program.svg" }).click();
  const shown = bob.page.getByRole("dialog").getByRole("img");
  await shown.waitFor({ state: "attached" });
  const address = (await shown.getAttribute("src"))!;
  // Its address in memory has the page's origin. Opened by itself, it is downloaded.
  const saved = bob.page.waitForEvent("download");
  await bob.page.evaluate((address) => {
    const link = document.createElement("a");
    link.href = address;
    link.click();
  }, address);
  await saved;

  expect(await bob.page.evaluate(() => localStorage.getItem("stolen"))).toBeNull();
  await bob.page.keyboard.press("Escape");
});
