import type { Vm } from "../vm/vm";
import type { Vms } from "../vm/vms";
import type { Fact } from "./messages";

/** The source has closed: the attempt is over for both. */
export async function closeIncoming(vms: Vms, vm: Vm, m: string, result: Fact["result"]): Promise<void> {
  using _turn = await vm.turn.lock();
  if (vms.get(vm.uuid) !== vm) return;
  const record = vm.journal.incoming(m);
  if (record?.state === "SETTLED") await vm.journal.dropIncoming(m);
  if (result && vm.file) await vm.writeFile({ ...vm.file, lastMigration: result });
  await forgetIfNothingStays(vms, vm);
}

/** A journal that says nothing any more goes. */
export async function forgetIfNothingStays(vms: Vms, vm: Vm): Promise<void> {
  const { home, out, tombstone, in: all } = vm.journal.value;
  const owed = all.some((one) => !one.closed);
  if (home !== "yes" && !vm.file && !owed && !tombstone && (!out || out.state === "ABORTED" || out.state === "CLOSED"))
    await vms.forget(vm);
}
