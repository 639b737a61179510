// A device plugin as ECI's virtual node has one: it offers alibabacloud.com/vfuse, and who gets one gets /dev/fuse.
//
// All that a container may do with the device beyond a stock kubelet's grant is the work of eci-runtime, which
// knows these containers by their device. Kubernetes' own stub for tests does the protocol.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	plugin "k8s.io/kubernetes/pkg/kubelet/cm/devicemanager/plugin/v1beta1"
)

const (
	resource = "alibabacloud.com/vfuse"
	socket   = pluginapi.DevicePluginPath + "vfuse.sock"
	device   = "/dev/fuse"
)

func allocate(request *pluginapi.AllocateRequest, _ map[string]*pluginapi.Device) (*pluginapi.AllocateResponse, error) {
	response := &pluginapi.AllocateResponse{}
	for range request.ContainerRequests {
		response.ContainerResponses = append(response.ContainerResponses, &pluginapi.ContainerAllocateResponse{
			Devices: []*pluginapi.DeviceSpec{{ContainerPath: device, HostPath: device, Permissions: "rw"}},
		})
	}
	return response, nil
}

func run(count int) error {
	var devices []*pluginapi.Device
	for number := range count {
		devices = append(devices, &pluginapi.Device{ID: fmt.Sprint("vfuse", number), Health: pluginapi.Healthy})
	}
	ctx := context.Background()
	stub := plugin.NewDevicePluginStub(klog.FromContext(ctx), devices, socket, resource, false, false)
	stub.SetAllocFunc(allocate)
	if err := stub.Start(ctx); err != nil {
		return err
	}
	if err := stub.Register(ctx, pluginapi.KubeletSocket, resource, ""); err != nil {
		return err
	}
	// A kubelet that starts anew empties the folder and knows no plugin: then this one has to as well.
	for {
		time.Sleep(time.Second)
		if _, err := os.Stat(socket); err != nil {
			return err
		}
	}
}

func main() {
	count := flag.Int("count", 200, "how many "+resource+" the node offers")
	flag.Parse()
	if err := run(*count); err != nil {
		fmt.Fprintln(os.Stderr, "vfuse-device-plugin:", err)
		os.Exit(1)
	}
}
