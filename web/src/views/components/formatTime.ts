// Formats times for the reader's language and region.

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const weekday = new Intl.DateTimeFormat(undefined, { weekday: "short" });
const shortDate = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const longDate = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const fullDate = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "long", year: "numeric" });
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;

export function timeOfDay(time: number): string {
  return clock.format(time);
}

export function exactTime(time: number): string {
  return exact.format(time);
}

/** For lists: the time today, the weekday within the last week, else the date. */
export function shortTime(time: number, now = Date.now()): string {
  if (isSameDay(time, now)) return clock.format(time);
  if (now - time < 6 * DAY_MS && now > time) return weekday.format(time);
  return shortDate.format(time);
}

/** For the lines between the days of a conversation. */
export function dayName(time: number, now = Date.now()): string {
  if (isSameDay(time, now)) return capitalised(relative.format(0, "day"));
  if (isSameDay(time, now - DAY_MS)) return capitalised(relative.format(-1, "day"));
  return now - time < 300 * DAY_MS ? longDate.format(time) : fullDate.format(time);
}

/** Returns "5 minutes ago", "in 2 days" and the like. */
export function relativeTime(time: number, now = Date.now()): string {
  const away = time - now;
  const size = Math.abs(away);
  if (size < MINUTE_MS) return away <= 0 ? "just now" : "in a moment";
  if (size < HOUR_MS) return relative.format(Math.round(away / MINUTE_MS), "minute");
  if (size < DAY_MS) return relative.format(Math.round(away / HOUR_MS), "hour");
  return relative.format(Math.round(away / DAY_MS), "day");
}

export function isSameDay(one: number, other: number): boolean {
  return new Date(one).toDateString() === new Date(other).toDateString();
}

function capitalised(text: string): string {
  return text.charAt(0).toLocaleUpperCase() + text.slice(1);
}
