/** Topologies as one Pulumi component. */
export { Topology, type TopologyArgs, TopologyError, type TopologyHost, type TopologyLink, type TopologyVm } from "./topology/topology";
