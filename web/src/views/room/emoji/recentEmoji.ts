// The last chosen emoji, on this device.

const STORAGE_KEY = "parlour.emoji";
const MAX_RECENT_EMOJI = 24;
const DEFAULT_EMOJI = ["👍", "❤️", "😂", "🎉", "😮", "😢", "🙏", "👀"];

export function recentEmoji(): string[] {
  try {
    const stored: unknown = JSON.parse(localStorage.getItem(STORAGE_KEY) ?? "null");
    if (Array.isArray(stored)) return stored.filter((emoji): emoji is string => typeof emoji === "string");
  } catch {
    // Invalid data counts as none.
  }
  return DEFAULT_EMOJI;
}

export function addRecentEmoji(emoji: string): void {
  const recent = [emoji, ...recentEmoji().filter((other) => other !== emoji)].slice(0, MAX_RECENT_EMOJI);
  try {
    localStorage.setItem(STORAGE_KEY, JSON.stringify(recent));
  } catch {
    // The storage is full or blocked; nothing important is lost.
  }
}
