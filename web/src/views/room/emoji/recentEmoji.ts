// The emoji that were chosen last, on this device.

const KEY = "parlour.emoji";
const KEPT = 24;
const FIRST = ["👍", "❤️", "😂", "🎉", "😮", "😢", "🙏", "👀"];

export function recentEmoji(): string[] {
  try {
    const stored: unknown = JSON.parse(localStorage.getItem(KEY) ?? "null");
    if (Array.isArray(stored)) return stored.filter((emoji): emoji is string => typeof emoji === "string");
  } catch {
    // Then there are none.
  }
  return FIRST;
}

export function addRecent(emoji: string): void {
  const recent = [emoji, ...recentEmoji().filter((other) => other !== emoji)].slice(0, KEPT);
  try {
    localStorage.setItem(KEY, JSON.stringify(recent));
  } catch {
    // It is no loss.
  }
}
