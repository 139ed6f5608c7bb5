// Reads an MPIJob as the MPI operator's own types have it, strictly: a field that they don't have is an error.
package main

import (
	"fmt"
	"os"

	kubeflow "github.com/kubeflow/mpi-operator/pkg/apis/kubeflow/v2beta1"
	"github.com/kubeflow/mpi-operator/pkg/apis/kubeflow/validation"
	"sigs.k8s.io/yaml"
)

func main() {
	text, err := os.ReadFile(os.Args[1])
	if err == nil {
		var job kubeflow.MPIJob
		err = yaml.UnmarshalStrict(text, &job)
		if err == nil {
			job.Name = "job"
			kubeflow.SetDefaults_MPIJob(&job)
			if wrong := validation.ValidateMPIJob(&job); len(wrong) > 0 {
				err = wrong.ToAggregate()
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
