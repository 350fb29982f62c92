export function InvitePage({ token }: { token: string }) {
  return <div class="empty">{token}</div>;
}
