import type { Sessions } from "../../model/session.ts";

export function Settings({ tab, sessions }: { tab: string; sessions: Sessions }) {
  return (
    <div class="empty">
      {tab}
      <button type="button" class="button" onClick={() => void sessions.logout()}>
        Sign out
      </button>
    </div>
  );
}
