export { cidr, ipAddress, name } from "./common";
export { type Fault, faultsOf, show } from "./faults";
export { type HostInputs, hostInputs } from "./host";
export { type LinkInputs, linkInputs } from "./link";
export { containsUnknown, isUnknown, UNKNOWN } from "./unknown";
export { nic, type VmInputs, vmInputs } from "./vm";
