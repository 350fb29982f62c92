import { expect, test } from "vitest";
import { formatMarkdown } from "./markdown.ts";

test.each(["hello", "two\nlines", "two\n\nparagraphs", "https://example.org/x_y_z", "a < b & c", "<b>not bold</b>", "2 * 3 * 4", "snake_case_name"])(
  "%j needs no HTML",
  (text) => {
    expect(formatMarkdown(text)).toMatchObject({ body: text, html: null });
  },
);

test.each([
  ["**bold** and *slanted*", "<strong>bold</strong> and <em>slanted</em>"],
  ["~~gone~~", "<del>gone</del>"],
  ["`a < b`", "<code>a &lt; b</code>"],
  ["**one**\ntwo", "<strong>one</strong><br>two"],
  ["**x** <script>alert(1)</script>", "<strong>x</strong> &lt;script&gt;alert(1)&lt;/script&gt;"],
  ["[a](https://example.org)", '<a href="https://example.org">a</a>'],
  ["> quoted", "<blockquote>\n<p>quoted</p>\n</blockquote>"],
])("%j becomes HTML", (text, html) => {
  expect(formatMarkdown(text).html).toBe(html);
});

test("code blocks keep their language and special characters", () => {
  expect(formatMarkdown("```rust\nfn main() { <x> }\n```").html).toBe('<pre><code class="language-rust">fn main() { &lt;x&gt; }\n</code></pre>');
});

test("pictures become links, since messages contain none from elsewhere", () => {
  expect(formatMarkdown("![cat](https://example.org/cat.png)").html).toBe('<a href="https://example.org/cat.png">cat</a>');
});

test("a mention becomes a link, also if another name starts the same", () => {
  const known = [
    { label: "@Ann", id: "@ann:x" },
    { label: "@Ann Lee", id: "@lee:x" },
  ];
  const formatted = formatMarkdown("Ask @Ann Lee **now**", known);
  expect(formatted.html).toBe('Ask <a href="https://matrix.to/#/%40lee%3Ax">Ann Lee</a> <strong>now</strong>');
  expect(formatted.mentions).toEqual({ user_ids: ["@lee:x"], room: false });
  expect(formatted.body).toBe("Ask @Ann Lee **now**");
});

test("a name in code is not a mention", () => {
  expect(formatMarkdown("`@Ann`", [{ label: "@Ann", id: "@ann:x" }]).mentions.user_ids).toEqual([]);
});

test("@room mentions everyone", () => {
  expect(formatMarkdown("Hey @room", [{ label: "@room", id: "@room" }])).toMatchObject({ html: "Hey @room", mentions: { user_ids: [], room: true } });
});
