import "./Toasts.css";
import { signal } from "@preact/signals";
import { messageOf } from "../../model/server/api.ts";

interface Toast {
  id: number;
  text: string;
}

const toasts = signal<Toast[]>([]);
const TOAST_DURATION_MS = 6_000;
let nextId = 1;

/** Shows a message for a few seconds. */
export function showToast(text: string): void {
  const toast = { id: nextId++, text };
  toasts.value = [...toasts.value.slice(-2), toast];
  setTimeout(() => (toasts.value = toasts.value.filter(({ id }) => id !== toast.id)), TOAST_DURATION_MS);
}

/** Runs an action and shows its error. Returns whether it succeeded. */
export async function attempt(work: () => Promise<unknown>): Promise<boolean> {
  try {
    await work();
    return true;
  } catch (error) {
    showToast(messageOf(error));
    return false;
  }
}

export function Toasts() {
  return (
    <div class="toasts" role="status" aria-live="polite">
      {toasts.value.map(({ id, text }) => (
        <div key={id} class="toast">
          {text}
        </div>
      ))}
    </div>
  );
}
