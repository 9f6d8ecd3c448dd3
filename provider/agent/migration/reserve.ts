import { mkdirPrivate } from "../../lib/files";
import { UndoStack } from "../../lib/undo";
import type { MoveNeeds } from "../../protocol/methods";
import { makeRoom } from "../host";
import { openBasis } from "../vm/basis";
import { startIncoming } from "../vm/boot";
import type { LiveVm } from "../vm/live";
import { createOverlay, overlayVirtualBytes } from "../vm/overlay";
import { killProcess } from "../vm/process";
import { Tool } from "../vm/tool";
import type { Vm } from "../vm/vm";
import type { Vms } from "../vm/vms";
import { standBack } from "../vm/weight";
import { sayGone } from "./settle";
import { DiskSink, MemorySink } from "./sinks";

interface Place {
  readonly vm: Vm;
  /** A process that waits. */
  readonly live: LiveVm;
  readonly memory: MemorySink;
  readonly disk: DiskSink;
}

/** Makes the place for a copy: memory file, disk, RESERVED, and a process that waits. On failure nothing stays. */
export async function reservePlace(vms: Vms, needs: MoveNeeds): Promise<Place> {
  using _back = standBack();
  const { spec, attempt, epochTarget } = needs;
  const { context, store } = vms;
  const known = vms.get(spec.uuid);
  const vm = known ?? (await vms.make(spec.uuid, 0));
  await using undo = new UndoStack();
  if (!known) undo.add(() => vms.forget(vm));
  vms.ports.free(Object.values(vm.file?.ports ?? {}));
  await makeRoom(context, vms, needs);
  // Its files lose their names with the rest, and live on until the copy is whole, or is given up.
  const basis = await openBasis(vm.paths);
  undo.add(async () => {
    await basis.memory?.close();
    await basis.disk?.close();
  });
  await vm.dropState();
  await mkdirPrivate(vm.paths.state);
  await mkdirPrivate(vm.paths.run);
  undo.add(() => vm.dropState());
  const tool = new Tool(await store.path(spec.kernelId));
  await tool.create(vm.paths.memory, needs.memoryBytes);
  await tool.prepare(vm.paths.memory, attempt, epochTarget);
  await createOverlay(vm.paths.disk, await store.path(spec.imageId), spec.imageId, spec.diskMiB);
  const ports = await vms.ports.takeFor(
    spec.nics.map((nic) => nic.name),
    {},
  );
  undo.add(() => vms.ports.free(Object.values(ports)));
  await vm.writeFile({ spec, owner: needs.owner, confirmed: true, ports });
  await vm.journal.update(({ tombstone: _, ...kept }) => ({
    ...kept,
    home: "no",
    // The source burnt two: its own way back is heard of too, so that the VM's next epoch here is above both.
    floor: epochTarget + 1,
    in: [
      ...kept.in.filter((one) => one.state === "SETTLED" && !one.closed),
      { m: attempt, from: needs.from, epoch: epochTarget, bootId: context.bootId, state: "RESERVED", closed: false },
    ],
  }));
  undo.add(() => sayGone(vm, attempt));
  const live = await startIncoming({ context, store, paths: vm.paths, spec, ports, wirings: [] });
  undo.add(async () => {
    live[Symbol.dispose]();
    await killProcess(live.process);
  });
  const memory = await MemorySink.open(vm.paths.memory, await store.path(spec.imageId), needs.memoryBytes, basis.memory);
  const disk = await DiskSink.open(vm.paths.disk, await overlayVirtualBytes(vm.paths.disk), basis.disk);
  undo.commit();
  return { vm, live, memory, disk };
}
