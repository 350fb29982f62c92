import { Icon } from "../../components/Icon.tsx";

export function JumpButton({ count, onClick }: { count: number; onClick: () => void }) {
  const label = count === 0 ? "Jump to the newest messages" : count === 1 ? "Jump to 1 new message" : `Jump to ${count} new messages`;
  return (
    <button type="button" class="jump" aria-label={label} title={label} onClick={onClick}>
      {count > 0 && <span class="badge highlight">{count > 99 ? "99+" : count}</span>}
      <Icon name="down" />
    </button>
  );
}
